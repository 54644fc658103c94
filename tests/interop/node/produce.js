// Send one task with celery-node and print its outcome as JSON: node produce.js URL QUEUE PROTOCOL TASK ARGS KWARGS
const celery = require("celery-node");

const [url, queue, protocol, task, args, kwargs] = process.argv.slice(2);
const client = celery.createClient(url, url, queue);
client.conf.TASK_PROTOCOL = Number(protocol);
const handle = client.createTask(task).applyAsync(JSON.parse(args), JSON.parse(kwargs));

handle
  .get(15000, 20)
  .then((value) => ({ id: handle.taskId, value }))
  .catch((error) => ({ id: handle.taskId, error: String(error) }))
  .then((outcome) => {
    console.log(JSON.stringify(outcome));
    process.exit(0);
  });
