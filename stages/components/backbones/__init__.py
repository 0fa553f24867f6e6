"""Backbones: families of networks that turn images into features, with their weights and their preprocessing."""
