"""What the colour benchmark trains on: every image mirrored or not, shifted, at each reading."""

import torch
from cifar_ood import SHIFT, Augmented, resnet8
from ood import Sets
from torch.nn import functional as F

N = 200


def images() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(N, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return x, torch.arange(N)


def whole(data: Augmented) -> tuple[torch.Tensor, torch.Tensor]:
    parts = list(data)
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def test_every_image_comes_once_and_is_one_of_its_own_moves():
    x, y = images()
    moved, labels = whole(Augmented(x, y))
    assert labels.sort().values.equal(y)
    shifts = [(dy, dx) for dy in range(2 * SHIFT + 1) for dx in range(2 * SHIFT + 1)]
    for image, label in zip(moved[:20], labels[:20].tolist(), strict=True):
        wide = F.pad(torch.stack([x[label], x[label].flip(2)]), (SHIFT,) * 4, mode="replicate")
        moves = [wide[m, :, dy : dy + 32, dx : dx + 32] for m in (0, 1) for dy, dx in shifts]
        assert sum(image.equal(move) for move in moves) == 1


def test_readings_differ_and_fits_repeat():
    x, y = images()
    data = Augmented(x, y)
    first, second = whole(data), whole(data)
    assert not first[1].equal(second[1])
    again = whole(Augmented(x, y))
    assert first[0].equal(again[0])
    assert first[1].equal(again[1])


def test_a_fit_is_given_augmented_data_from_their_start():
    data = images()
    plain = Sets("here", data, data, data, data, data, {})
    assert plain.trained_on() is data
    sets = Sets("here", data, data, data, data, data, {}, lambda d: Augmented(*d))
    assert whole(sets.trained_on())[0].equal(whole(sets.trained_on())[0])


def test_the_network_sees_colour_images():
    assert resnet8().eval()(images()[0][:2]).shape == (2, 8)
