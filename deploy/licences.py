#!/usr/bin/env python3
"""Prints the licence texts of what is linked into trialog: its crates on this platform, and the C code in
them. Fails where a crate has no text that could be given.

Called by deploy/deb.sh; asks cargo alone, and needs nothing beside Python.
"""

import hashlib
import json
import pathlib
import re
import subprocess
import sys

# A text, or what stands beside one (NOTICE of the Apache licence).
NAMES = re.compile(r"(?i)^(licen[cs]e|copying|notice|unlicense)")
# Where crates keep the C code that they bring, and how deep a text of it stands.
DEPTH = 4
# The other licence of what is used under another one.
NOT_CHOSEN = {"zstd/COPYING"}
APACHE = "Apache-2.0"


def cargo(*args):
    return subprocess.run(["cargo", *args], check=True, capture_output=True, text=True).stdout


def linked():
    """The crates that a build for this platform links, without those that only the build itself runs."""
    platform = re.search(r"^host: (.+)$", cargo_version(), re.M).group(1)
    found = json.loads(
        cargo("metadata", "--format-version=1", "--locked", f"--filter-platform={platform}")
    )
    packages = {package["id"]: package for package in found["packages"]}
    nodes = {node["id"]: node for node in found["resolve"]["nodes"]}
    root = found["resolve"]["root"]
    seen, waiting = {root}, [root]
    while waiting:
        for dependency in nodes[waiting.pop()]["deps"]:
            is_normal = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            targets = packages[dependency["pkg"]]["targets"]
            is_macro = any("proc-macro" in target["kind"] for target in targets)
            if is_normal and not is_macro and dependency["pkg"] not in seen:
                seen.add(dependency["pkg"])
                waiting.append(dependency["pkg"])
    crates = [packages[one] for one in seen - {root}]
    return sorted(crates, key=lambda crate: (crate["name"], crate["version"]))


def cargo_version():
    return subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout


def texts(crate):
    """The crate's texts, its own before those of code in it."""
    folder = pathlib.Path(crate["manifest_path"]).parent
    found = []
    for path in sorted(folder.rglob("*"), key=lambda path: (len(path.parts), path)):
        inside = path.relative_to(folder)
        if len(inside.parts) <= DEPTH and NAMES.match(path.name) and path.is_file():
            is_text = path.suffix not in (".rs", ".c", ".h", ".py", ".toml", ".json")
            if is_text and str(inside) not in NOT_CHOSEN:
                found.append((str(inside), path.read_text(errors="replace").strip()))
    return found


def main():
    crates = linked()
    # One text has one place, whoever has it.
    places, owners, without = {}, {}, []
    for crate in crates:
        name = f"{crate['name']} {crate['version']}"
        found = texts(crate)
        if not found:
            without.append((name, crate["license"] or ""))
        for inside, text in found:
            key = hashlib.sha256(" ".join(text.split()).encode()).digest()
            places.setdefault(key, text)
            owners.setdefault(key, []).append(f"{name}: {inside}")
    # Of such a crate the Apache licence is chosen, whose text stands below.
    missing = [f"{name} ({licence})" for name, licence in without if APACHE not in licence]
    if missing:
        sys.exit("no licence text in: " + ", ".join(missing))
    has_apache = any("Apache License" in text for text in places.values())
    if without and not has_apache:
        sys.exit("no crate has the text of the Apache licence")

    print("Crates that are linked into trialog, with their licences; the texts follow.")
    print("The standard library of Rust is linked, too: MIT OR Apache-2.0, https://www.rust-lang.org.\n")
    for crate in crates:
        where = crate["repository"] or crate["homepage"] or ""
        print(f"{crate['name']} {crate['version']}: {crate['license']} {where}".rstrip())
    if without:
        print(f"\nWithout a text of their own, and used under {APACHE}:")
        for name, _ in without:
            print(name)
    for key, text in places.items():
        print("\n" + "=" * 100)
        for owner in owners[key]:
            print(owner)
        print("-" * 100)
        print(text)


main()
