"""Visits of people who follow trails, go back and look around."""

import random


def visits(number: int, *, seed: int = 0, num_items: int = 200) -> list[list[str]]:
    """Lists of items: from an item mostly to the next of its number, sometimes back, sometimes anywhere."""
    draw = random.Random(seed)
    made = []
    for _ in range(number):
        items = [draw.randrange(num_items)]
        while draw.random() < 0.75:
            step = draw.random()
            if step < 0.6:
                items.append((items[-1] + draw.choice([1, 1, 1, 2])) % num_items)
            elif step < 0.85:
                items.append(draw.choice(items))
            else:
                items.append(draw.randrange(num_items))
        made.append([f"i{item:03}" for item in items])
    return made
