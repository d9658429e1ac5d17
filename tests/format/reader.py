#!/usr/bin/env python3
"""Prints the entries of one trialog segment as JSON lines.

Written from src/log/FORMAT.md alone, to show that the page is enough. It checks everything that
the page says about one segment, and is strict: with the first thing that isn't right it exits 1.
"""

import datetime
import hashlib
import re
import struct
import sys
from zlib import crc32

sys.dont_write_bytecode = True
from metrics import Metrics, read_metrics  # noqa: E402

HEADER = struct.Struct("<8sIIQQQQ16sQQQQQB")
FRAME = struct.Struct("<2sBBII16sII")
HEAD = struct.Struct("<8sQQII")
SECTION = struct.Struct("<IIQ")
TRAILER = struct.Struct("<8sQQQIIII")
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Damaged(Exception):
    """Something isn't as the page says."""


def check(is_right, what):
    if not is_right:
        raise Damaged(what)


class Fields:
    """bincode, fixed width, little-endian."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def bytes(self, length):
        check(self.at + length <= len(self.data), "a record is too short")
        self.at += length
        return self.data[self.at - length : self.at]

    def number(self, width):
        return int.from_bytes(self.bytes(width), "little")

    def sized(self):
        return self.bytes(self.number(8))

    def optional(self):
        tag = self.number(1)
        check(tag <= 1, "an optional's first byte is neither 0 nor 1")
        return self.sized() if tag else None

    def end(self):
        check(self.at == len(self.data), "bytes are left over behind a record")


def read_header(segment):
    good = []
    for at in (0, 256):
        copy = segment[at : at + 256]
        if len(copy) == 256 and int.from_bytes(copy[252:], "little") == crc32(copy[:252]):
            good.append(copy)
    check(good, "no copy of the header is good")
    check(len(good) == 1 or good[0] == good[1], "the copies of the header differ")
    fields = HEADER.unpack_from(good[0])
    magic, version, length = fields[:3]
    check(magic == b"TRIALOG\n" and length == 256, "this is no segment")
    check(version == 1, f"version {version}")
    slug = good[0][105 : 105 + fields[13]].decode()
    check(re.fullmatch("[a-z0-9][a-z0-9_-]{0,63}", slug), "the slug is none")
    salt = good[0][72:80]
    return slug, salt, int.from_bytes(fields[7], "little")


def read_trailer(segment, salt):
    """Frames' end and footer's begin, or None where there is no footer."""
    if len(segment) < 512 + TRAILER.size:
        return None
    at = len(segment) - TRAILER.size
    magic, begin, frames_end, own_salt, content_crc, footer_crc, version, crc = TRAILER.unpack_from(segment, at)
    if magic != b"TLTRAILR" or version != 1 or crc != crc32(segment[at : at + 44]):
        return None
    check(own_salt.to_bytes(8, "little") == salt, "the trailer has another salt")
    check(frames_end <= begin <= at, "the trailer's places are out of order")
    check(content_crc == crc32(segment[:begin]), "what is in front of the footer has changed")
    check(footer_crc == crc32(segment[begin:at]), "the footer's CRC is wrong")
    check(read_head(segment, begin, salt) == frames_end, "the footer's head doesn't fit its trailer")
    return frames_end, begin


def read_head(segment, at, salt):
    if len(segment) < at + HEAD.size:
        return None
    magic, frames_end, own_salt, crc, zeros = HEAD.unpack_from(segment, at)
    is_good = magic == b"TLFOOTER" and crc == crc32(segment[at : at + 24]) and zeros == 0
    return frames_end if is_good and own_salt.to_bytes(8, "little") == salt else None


def read_sections(segment, begin):
    """The summary, the variants, the blocks, the keyed entries and the metrics that a footer gives."""
    at, end = begin + HEAD.size, len(segment) - TRAILER.size
    summary, variants, blocks, keyed, metrics = None, {}, [], [], None
    while at < end:
        kind, crc, length = SECTION.unpack_from(segment, at)
        payload = segment[at + SECTION.size : at + SECTION.size + length]
        check(len(payload) == length and crc == crc32(payload), "a section's CRC is wrong")
        at += SECTION.size + length + -length % 8
        fields = Fields(payload)
        if kind == 1:
            summary = tuple(fields.number(width) for width in (4, 8, 16, 16, 8, 8, 8))
            fields.end()
        elif kind == 2:
            key, count, postings = fields.sized(), fields.number(8), fields.sized()
            fields.end()
            variants[key.decode()] = read_postings(postings)
            check(len(variants[key.decode()]) == count, "a variant's count is wrong")
        elif kind == 3:
            blocks = [(fields.number(16), fields.number(8)) for _ in range(length // 24)]
            fields.end()
        elif kind == 4:
            metrics = read_metrics(payload)
        elif kind == 5:
            keyed = [(fields.number(16), fields.bytes(16), fields.bytes(16)) for _ in range(length // 48)]
            fields.end()
            check(keyed, "a section of keyed entries is empty")
    check(at == end, "the sections don't end at the trailer")
    return summary, variants, blocks, keyed, metrics


def read_postings(data):
    positions, position, distance, shift = [], 0, 0, 0
    for byte in data:
        distance |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            position += distance * 8
            positions.append(position)
            distance = shift = 0
    check(shift == 0, "a posting has no end")
    return positions


def fingerprint(key, body):
    """What an entry with this idempotency key is known by when it is sent again."""
    key, _, place = key.decode("ascii").partition(" ")
    check(re.fullmatch("[!-~]{1,128}", key), "an idempotency key is none")
    check(re.fullmatch("|[1-9][0-9]*/[1-9][0-9]*", place), "an idempotency key has no place in a batch")
    number, _, count = place.partition("/")
    number, count = number or "1", count or "1"
    check(count != "1" or not place, "a batch of one has a place")
    check(int(number) <= int(count), "an entry is behind the end of its batch")
    half_hash = lambda data: hashlib.sha256(data).digest()[:16]
    return half_hash(f"{key} {number}".encode()), half_hash(f"{count} ".encode() + body)


def read_frame(segment, at, frames_end, seed, due):
    """One frame's kind, id, payload and end, or None where none is whole."""
    if at + FRAME.size > frames_end:
        return None
    magic, kind, codec, length, ordinal, log_id, header_crc, payload_crc = FRAME.unpack_from(segment, at)
    if magic != b"tl" or header_crc != crc32(segment[at : at + 28], seed):
        return None
    begin, end = at + FRAME.size, at + FRAME.size + length
    next_at = end + -(FRAME.size + length) % 8
    if kind not in (1, 2) or codec != 0 or ordinal != due or next_at > frames_end:
        return None
    payload = segment[begin:end]
    if payload_crc != crc32(payload, header_crc) or any(segment[end:next_at]):
        return None
    return kind, int.from_bytes(log_id, "little"), payload, next_at


def has_frame_behind(segment, at, frames_end, seed, due):
    for place in range(at + 8, frames_end, 8):
        for ordinal in range(due, due + (place - at) // FRAME.size + 1):
            if read_frame(segment, place, frames_end, seed, ordinal):
                return True
    return False


def as_line(slug, log_id, received_at, body):
    ulid = "".join(CROCKFORD[log_id >> 5 * place & 31] for place in range(25, -1, -1))
    seconds = datetime.datetime.fromtimestamp(received_at // 1000, datetime.timezone.utc)
    time = f"{seconds:%Y-%m-%dT%H:%M:%S}.{received_at % 1000:03}Z"
    begin = f'{{"logId":"log_{ulid}","experiment":"{slug}","receivedAt":"{time}",'
    rest = body.strip(b" \t\r\n")[1:].replace(b"\n", b" ").replace(b"\r", b" ")
    return begin.encode() + rest + b"\n"


def read(segment, out):
    slug, salt, last_id = read_header(segment)
    seed = crc32(salt)
    footer = read_trailer(segment, salt)
    heads = (read_head(segment, at, salt) for at in range(512, len(segment), 8))
    frames_end = footer[0] if footer else next((end for end in heads if end is not None), None)
    is_known = frames_end is not None
    frames_end = frames_end if is_known else len(segment)
    check(frames_end <= len(segment), "the file is too short")

    at, ordinal, entry_count, first_id, times = 512, 0, 0, 0, []
    numbers, postings, blocks, keyed, metrics = [], {}, [], [], Metrics()
    while at < frames_end:
        frame = read_frame(segment, at, frames_end, seed, ordinal)
        if frame is None:
            is_torn = not is_known and not has_frame_behind(segment, at, frames_end, seed, ordinal)
            check(is_torn, f"no frame of ordinal {ordinal} at {at}")
            print(f"torn from {at} on", file=sys.stderr)
            break
        kind, log_id, payload, next_at = frame
        fields = Fields(payload)
        if kind == 1:
            number, key = fields.number(2), fields.sized().decode()
            check(log_id == 0 and number == len(numbers), "a variant's number is not the next one")
            numbers.append(key)
            postings[key] = []
        else:
            received_at, number, key = fields.number(8), fields.number(2), fields.optional()
            body = fields.sized()
            check(log_id > last_id, "an id is not above the one before it")
            check(number < len(numbers), "an entry's variant has no frame in front of it")
            last_id, first_id, entry_count = log_id, first_id or log_id, entry_count + 1
            times.append(received_at)
            postings[numbers[number]].append(at)
            metrics.add(numbers[number], received_at, body)
            if not blocks or blocks[-1][1] // 65536 != at // 65536:
                blocks.append((log_id, at))
            if key is not None:
                keyed.append((log_id, *fingerprint(key, body)))
            out.write(as_line(slug, log_id, received_at, body))
        fields.end()
        at, ordinal = next_at, ordinal + 1
    check(footer or not is_known, "the footer's trailer is damaged; its head is good")
    if footer:
        sums = (min(times), max(times), times[-1]) if times else (0, 0, 0)
        summary = (ordinal, entry_count, first_id, last_id if times else 0, *sums)
        *index, kept = read_sections(segment, footer[1])
        check(index == [summary, postings, blocks, keyed], "the footer doesn't fit")
        check(kept is None or kept == metrics.parts(), "the metrics in the footer don't fit")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: reader.py SEGMENT")
    with open(sys.argv[1], "rb") as file:
        data = file.read()
    try:
        read(data, sys.stdout.buffer)
    except (Damaged, ValueError, IndexError) as what:
        sys.stdout.flush()
        sys.exit(f"{sys.argv[1]}: {what}")
