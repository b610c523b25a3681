"""Attacks: one per file, pure functions from a network and images to an `AttackResult`."""
