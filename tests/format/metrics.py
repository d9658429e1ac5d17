"""The metrics that a segment's footer keeps: read from it, and folded from the entries.

Written from src/log/FORMAT.md alone, as reader.py is. Both give the same parts, or something is wrong.
"""

import json
import math
import struct
from fractions import Fraction

NAMES_MAX, NAME_BYTES_MAX, HASHES_MAX, BUCKETS_MAX, DEPTH_MAX = 256, 256, 1024, 2048, 16
SERIES_MAX, ALL_BUCKETS_MAX = 16384, 2097152


class Bytes:
    """What is still to be read. What is missing is an IndexError or a ValueError."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, length):
        if self.at + length > len(self.data):
            raise ValueError("the metrics section is too short")
        self.at += length
        return self.data[self.at - length : self.at]

    def integer(self):
        value, shift = 0, 0
        while True:
            (byte,) = self.take(1)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def text(self):
        return self.take(self.integer()).decode()

    def double(self):
        return struct.unpack("<d", self.take(8))[0]

    def list(self, item):
        return [item() for _ in range(self.integer())]

    def sum(self):
        head = self.integer()
        place = self.take(1)[0] if head > 1 else 0
        digits = int.from_bytes(self.take(head // 2 * 4), "little")
        return (-1 if head & 1 else 1) * digits * Fraction(2) ** (32 * place - 2176)

    def buckets(self):
        number, buckets = 0, {}
        for above, count in self.list(lambda: (self.integer(), self.integer())):
            number += above
            buckets[number] = count
        return buckets

    def series(self):
        (flags,) = self.take(1)
        others = (self.integer(), self.integer()) if flags & 1 else (0, 0)
        if not flags & 2:
            return others, None
        count, smallest, largest = self.integer(), self.double(), self.double()
        sums = self.sum(), self.sum()
        zeros, above, below = self.integer(), self.buckets(), self.buckets()
        return others, (count, smallest, largest, *sums, zeros, above, below, bool(flags & 4))


def read_metrics(payload):
    """Names, dropped values and hashes, and variants: as `Metrics.parts` gives them."""
    data = Bytes(payload)
    if data.take(1) != b"\1":
        return None
    names = data.list(lambda: (data.take(1), data.text()))
    if any(flags not in (b"\0", b"\1") for flags, _ in names):
        raise ValueError("a metric has an unknown flag")
    dropped = data.integer(), data.list(lambda: int.from_bytes(data.take(8), "little"))
    variants = data.list(
        lambda: (data.text(), data.integer(), data.integer(), data.integer(), data.list(data.series))
    )
    if data.at != len(payload):
        raise ValueError("bytes are left over behind the metrics")
    return [(name, flags == b"\1") for flags, name in names], dropped, variants


class Series:
    """One metric of one variant."""

    def __init__(self):
        self.others, self.values = [0, 0], []

    def is_empty(self):
        return not any(self.others) and not self.values

    def add(self, value):
        if not isinstance(value, (bool, float)):
            self.others[0] += 1
        elif not math.isfinite(value):
            self.others[1] += 1
        else:
            self.values.append(float(value) + 0.0)

    def parts(self):
        values = self.values
        if not values:
            return tuple(self.others), None
        exact = [Fraction(value) for value in values]
        sums = sum(exact), sum(value * value for value in exact)
        (above, lost), (below, lost_too) = (side(sign * value for value in values) for sign in (1, -1))
        numbers = (len(values), min(values), max(values), *sums, values.count(0.0), above, below, lost or lost_too)
        return tuple(self.others), numbers


def side(values):
    """The buckets of the values above zero, and whether they lose anything."""
    buckets, is_rounded = {}, False
    for value in values:
        if value > 0:
            bits = struct.unpack("<Q", struct.pack("<d", value))[0]
            buckets[bits >> 45] = buckets.get(bits >> 45, 0) + 1
            is_rounded |= bits % 2**45 != 0
    kept = sorted(buckets)
    while len(kept) > BUCKETS_MAX:
        buckets[kept[1]] += buckets.pop(kept.pop(0))
        is_rounded = True
    return dict(sorted(buckets.items())), is_rounded


class Metrics:
    """What is kept of a segment's entries."""

    def __init__(self):
        self.names, self.dropped_count, self.hashes, self.variants = {}, 0, set(), {}
        self.series_count, self.incomplete = 0, set()

    def add(self, key, received_at, body):
        pairs = json.loads(body, object_pairs_hook=Pairs, parse_int=float)
        values = {}
        for name, value in walk([pair[1] for pair in pairs if pair[0] == "metrics"][-1:], "", 0):
            encoded = name.encode()
            if name in self.names or (len(self.names) < NAMES_MAX and len(encoded) <= NAME_BYTES_MAX):
                values[self.names.setdefault(name, len(self.names))] = value
            else:
                self.dropped_count += 1
                self.hashes.add(fnv1a(encoded))
        variant = self.variants.setdefault(key, ([], []))
        variant[0].append(received_at)
        for place, value in values.items():
            if len(variant[1]) <= place or variant[1][place].is_empty():
                if self.series_count == SERIES_MAX:
                    name = list(self.names)[place]
                    self.dropped_count += 1
                    self.hashes.add(fnv1a(name.encode()))
                    self.incomplete.add(name)
                    continue
                self.series_count += 1
            while len(variant[1]) <= place:
                variant[1].append(Series())
            variant[1][place].add(value)

    def parts(self):
        hashes = sorted(self.hashes)[:HASHES_MAX]
        variants = [
            (key, len(times), min(times), max(times), [one.parts() for one in series])
            for key, (times, series) in self.variants.items()
        ]
        series = [one for *_, all_series in variants for one in all_series]
        sides = [len(side) for _, numbers in series if numbers for side in numbers[6:8]]
        if sum(sides) > ALL_BUCKETS_MAX:
            raise ValueError("there should be no metrics section")
        names = [(name, name in self.incomplete) for name in self.names]
        return names, (self.dropped_count, hashes), variants


class Pairs(list):
    """An object, with a member for each time that its key is there."""


def walk(metrics, prefix, depth):
    """The names and values in the order of the text."""
    for value in metrics:
        if isinstance(value, Pairs) and depth < DEPTH_MAX:
            for key, inner in value:
                yield from walk([inner], prefix + "." + key if depth else key, depth + 1)
        elif depth:
            yield prefix, value


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value
