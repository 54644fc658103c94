from django.db import models


class Order(models.Model):
    id = models.BigAutoField(primary_key=True)
    status = models.CharField(max_length=20, default="new")

    def __str__(self):
        return f"order {self.pk}"
