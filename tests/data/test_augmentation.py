"""Augmentation: pure functions of the ticket, image by image."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import pad

from sparring.attacks import PGD, Crafter, Linf, Recipe
from sparring.data import Augmentation, Crop, Flip, ImageSet, Order, Ticket, augmented
from sparring.errors import ConfigError

BOTH = (Crop(padding=2), Flip())


def images(count: int = 40, columns: int = 6) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(1, 256, (count, 3, 5, columns), generator=generator)
    return ImageSet(pixels=pixels.to(torch.uint8), labels=torch.arange(count) % 3, num_classes=3)


def ticket(number: int = 0, batch_size: int = 13) -> Ticket:
    return Order(num_images=40, batch_size=batch_size, seed=5).ticket(number)


def seen(steps: tuple[Augmentation, ...], mine: Ticket) -> torch.Tensor:
    return augmented(images().batch(mine.indices).images, steps, mine)


@pytest.mark.parametrize("parts", [2, 3, 13])
def test_the_parts_of_a_ticket_give_what_the_whole_gives(parts):
    whole = seen(BOTH, ticket())
    assert not torch.equal(whole, images().batch(ticket().indices).images)
    pieces = [seen(BOTH, ticket().part(part, parts)) for part in range(parts)]
    assert torch.equal(torch.cat(pieces), whole)


def test_parts_of_parts_too():
    half = ticket().part(1, 2)
    pieces = [seen(BOTH, half.part(part, 3)) for part in range(3)]
    assert torch.equal(torch.cat(pieces), seen(BOTH, half))


def test_every_ticket_is_augmented_otherwise_and_always_alike():
    mine = replace(ticket(1), indices=ticket(0).indices)
    assert not torch.equal(seen(BOTH, mine), seen(BOTH, ticket(0)))
    torch.manual_seed(1)
    assert torch.equal(seen(BOTH, ticket(0)), seen(BOTH, ticket(0)))


def test_a_flip_mirrors_about_its_share_and_leaves_the_others():
    many = Order(num_images=40, batch_size=2000, seed=1).ticket(0)
    before = images().batch(many.indices).images
    after = augmented(before, (Flip(share=0.25),), many)
    mirrored = (after == before.flip(3)).flatten(1).all(1)
    assert torch.equal(after, torch.where(mirrored[:, None, None, None], before.flip(3), before))
    assert 0.2 < mirrored.float().mean() < 0.3
    assert torch.equal(augmented(before, (Flip(share=1.0),), many), before.flip(3))
    assert torch.equal(augmented(before, (Flip(share=0.0),), many), before)


def test_a_crop_is_one_of_the_parts_of_the_framed_image_and_all_come_about_equally_often():
    many = Order(num_images=40, batch_size=2000, seed=1).ticket(0)
    before = images().batch(many.indices).images
    after = augmented(before, (Crop(padding=1),), many)
    framed = pad(before, (1, 1, 1, 1))
    found = torch.zeros(3, 3)
    for row in range(3):
        for column in range(3):
            cut = framed[:, :, row : row + 5, column : column + 6]
            found[row, column] = (cut == after).flatten(1).all(1).sum()
    assert found.sum() == 2000
    assert found.min() > 170
    assert torch.equal(augmented(before, (Crop(padding=0),), many), before)


def test_two_steps_of_one_kind_draw_apart():
    before = images().batch(ticket().indices).images
    twice = augmented(before, (Flip(), Flip()), ticket())
    assert not torch.equal(twice, before)


def test_starts_of_attacks_do_not_move():
    attack = PGD(threat=Linf(eps=0.3), steps=0)
    recipe = Recipe(attack=attack, batch_size=8, updates=3, seed=5)
    crafters = [
        Crafter(each, images(), torch.device("cpu"))
        for each in (recipe, replace(recipe, augmentation=BOTH))
    ]
    for number in range(3):
        one, other = (
            crafter.craft(crafter.clean(number), torch.zeros_like, version=0)
            for crafter in crafters
        )
        noise = (one.adversarial - one.images, other.adversarial - other.images)
        inside = ((one.images - 0.5).abs() < 0.2) & ((other.images - 0.5).abs() < 0.2)
        torch.testing.assert_close(noise[0][inside], noise[1][inside], rtol=0, atol=1e-6)
        assert inside.sum() > 50


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (lambda: Flip(share=1.5), r"share must lie in \[0, 1\].*got 1\.5"),
        (lambda: Crop(padding=-1), r"padding must be 0 or more"),
    ],
)
def test_what_cannot_be_meant_is_refused(wrong, complaint):
    with pytest.raises(ConfigError, match=complaint):
        wrong()
