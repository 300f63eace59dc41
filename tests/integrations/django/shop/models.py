"""The model."""

from django.db import models


class Item(models.Model):
    name = models.CharField(max_length=20)
    details = models.JSONField(default=dict)
    soldAt = models.DateTimeField(null=True)
