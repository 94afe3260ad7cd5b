"""Orders of customers, with items, products and an invoice."""

from __future__ import annotations

from django.db import models


class Customer(models.Model):
    name = models.CharField(max_length=50)
    notes = models.TextField(default="")


class Product(models.Model):
    name = models.CharField(max_length=50)


class Order(models.Model):
    customer = models.ForeignKey(Customer, models.CASCADE, related_name="orders")
    products = models.ManyToManyField(Product, related_name="orders")
    total = models.IntegerField(default=0)


class Item(models.Model):
    order = models.ForeignKey(Order, models.CASCADE, related_name="items")
    number = models.IntegerField()


class Invoice(models.Model):
    order = models.OneToOneField(Order, models.CASCADE, related_name="invoice")
