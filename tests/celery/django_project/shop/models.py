from __future__ import annotations

from django.db import models


class Order(models.Model):
    number = models.IntegerField(unique=True)
    pid = models.IntegerField()  # of the process that took it
