import sys

from celery import shared_task

from orders.models import Order

LIBRARY = "umbel" if "umbel" in sys.modules else "celery"


@shared_task
def confirm(order_id):
    Order.objects.filter(pk=order_id).update(status="confirmed")
    return Order.objects.get(pk=order_id).status


@shared_task(bind=True, autoretry_for=(Order.DoesNotExist,), retry_kwargs={"max_retries": 1, "countdown": 0})
def status(self, order_id):
    return Order.objects.get(pk=order_id).status


@shared_task
def where():
    return LIBRARY
