"""kombu's names in simple use, under the alias: queues, producers, consumers and serializers."""

from __future__ import annotations

import subprocess
import sys


def output(code: str) -> list[str]:
    prelude = "import umbel; umbel.install_as_celery()\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_simple_queue():
    assert output(
        "from kombu import Connection\n"
        "with Connection('memory://') as connection:\n"
        "    queue = connection.SimpleQueue('posts')\n"
        "    queue.put({'hello': 'world'}, serializer='json', compression='zlib')\n"
        "    message = queue.get(block=True, timeout=5)\n"
        "    print(message.payload, queue.qsize())\n"
        "    message.ack()\n"
        "    queue.close()\n"
    ) == ["{'hello': 'world'} 0"]


def test_what_is_published_to_an_exchange_reaches_the_callbacks_of_its_consumers():
    assert output(
        "import socket\n"
        "from kombu import Connection, Consumer, Exchange, Producer, Queue\n"
        "media = Exchange('media', 'direct', durable=True)\n"
        "video = Queue('video', exchange=media, routing_key='video')\n"
        "def heard(body, message):\n"
        "    print(body, message.delivery_info['routing_key'])\n"
        "    message.ack()\n"
        "with Connection('memory://') as connection:\n"
        "    producer = connection.Producer(serializer='json')\n"
        "    producer.publish({'name': '/tmp/a.avi'}, exchange=media, routing_key='video', declare=[video])\n"
        "    with connection.Consumer(video, callbacks=[heard]):\n"
        "        connection.drain_events(timeout=5)\n"
        "        try: connection.drain_events(timeout=0.05)\n"
        "        except socket.timeout: print('no more')\n"
    ) == ["{'name': '/tmp/a.avi'} video", "no more"]


def test_a_serializer_that_is_registered_with_kombu_is_one_for_tasks_and_results():
    assert output(
        "import codecs, json\n"
        "from celery import Celery\n"
        "from kombu.serialization import dumps, loads, register\n"
        "register('rot', lambda value: codecs.encode(json.dumps(value), 'rot13'),\n"
        "         lambda data: json.loads(codecs.decode(data.decode(), 'rot13')), 'application/x-rot', 'utf-8')\n"
        "kind, encoding, data = dumps(['abc'], 'rot')\n"
        "print(kind, encoding, data, loads(data, kind, encoding, accept=['rot']))\n"
        "app = Celery('t', broker='memory://', backend='cache+memory://')\n"
        "app.conf.update(task_serializer='rot', result_serializer='rot', accept_content=['rot'])\n"
        "@app.task\n"
        "def add(x, y):\n"
        "    return x + y\n"
        "with app.worker(pool='solo'):\n"
        "    print(add.delay(2, 3).get(timeout=10))\n"
    ) == ["application/x-rot utf-8 [\"nop\"] ['abc']", "5"]
