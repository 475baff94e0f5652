"""What a user might write; `test_extending` copies it to where it is imported as ``mine``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from annotated_types import Interval

from nectargan.dataset.augmentation import Augmentation

Path(__file__).with_name("imported").touch()


def waves(schedule, epoch, *, period: Annotated[int, Interval(ge=1, le=9)] = 2, gain=1.0):
    span = schedule.initial_value - schedule.target_value
    return schedule.target_value + gain * span * (1 - (epoch - 1) % period / period)


calls = []


def with_a_memory(schedule, epoch):
    calls.append(epoch)
    return len(calls)


def of_words(schedule, epoch):
    return "much"


def below(schedule, epoch):
    return 1.5 - epoch


def failing(schedule, epoch):
    raise LookupError("no table\nfor it")


number = 5


def error(generated, target, power=2.0):
    return (generated - target).abs().pow(power).mean(dim=(1, 2, 3))


def likeness(generated, target):
    return 1 - (generated - target).abs().mean()


likeness.higher_is_better = True


def distance(generated, target):
    return (generated - target).abs().amax(dim=(1, 2, 3))


distance.higher_is_better = False


class Scaled:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, generated, target):
        return self.scale * (generated - target).abs().mean(dim=(1, 2, 3))


class Stripes(Augmentation):
    """Black rows, the same ones in all images of a pair."""

    moves_pixels = False

    def __init__(self, count=3):
        self.count = count

    def draw(self, n, c, h, w):
        return (torch.randint(0, h, (n, self.count)),)

    def apply(self, images, rows):
        images = images.clone()
        for image, mine in zip(images, rows, strict=True):
            image[:, mine.to(image.device)] = 0
        return images


@dataclass(frozen=True)
class Declared(Augmentation):
    needs_rgb = True
    low_min: Annotated[float, Interval(ge=0, le=1)] = 0.2
    low_max: Annotated[float, Interval(ge=0, le=1)] = 0.4
    kind: Literal["a", "b"] = "a"

    def draw(self, n, c, h, w):
        return ()

    def apply(self, images):
        return images * self.low_max


class Halving(Declared):
    def apply(self, images):
        return images[:, :, ::2]


class Failing(Declared):
    def draw(self, n, c, h, w):
        raise LookupError("no table\nfor it")


def a_map(generated, target):
    return generated - target


def no_tensor(generated, target):
    return 0.5


def broken(generated, target):
    raise LookupError("no table\nfor it")


class Lines:
    """A sink that writes a line for each thing that it is told."""

    def __init__(self, file="lines.txt", fails_at=0):
        self.file, self.fails_at = file, fails_at

    def note(self, *words):
        with (self.directory / self.file).open("a") as file:
            print(*words, file=file)

    def open(self, first_step):
        assert (self.directory / "config.json").exists() or not self.fails_at
        self.note("open", first_step, self.name, self.every_n_steps)

    def write(self, points):
        if self.fails_at and (self.directory / "away").exists():
            raise ConnectionError("the line is dead")
        for point in points:
            self.note("point", point.series, point.step, point.value)

    def add_file(self, kind, path, step):
        self.note("file", kind, path.name, step)

    def close(self, status, reason):
        self.note("close", status)


class Half:
    def open(self, first_step):
        pass

    def write(self, points):
        pass
