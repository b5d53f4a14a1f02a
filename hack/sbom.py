#!/usr/bin/env python3
"""Prints the SBOM of the operator's image as a CycloneDX 1.5 document.

    hack/sbom.py [TARGET]       default: ARCH-unknown-linux-gnu with the architecture of this machine

The document contains the crates that cargo links into the program for the target, without dependencies of build scripts and tests.
It also contains glibc and the CA bundle of the build machine, with the versions of their Debian packages. The same Cargo.lock and
the same Debian packages give the same document.
"""
import json
import platform
import subprocess
import sys
import uuid


def run(*command):
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def linked(metadata, target):
    """Maps the ID of each package that `valet` links to the IDs of the packages that this package links."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    # The metadata contains the packages of all features in the workspace. `cargo tree` lists only the packages of this program.
    # Procedural macros run in the compiler and are not linked.
    tree = run(
        *"cargo tree --locked --package valet --edges normal,no-proc-macro --prefix none --no-dedupe --target".split(), target
    )
    wanted = {tuple(line.split()[:2]) for line in tree.splitlines()}
    wanted = {p["id"] for p in metadata["packages"] if (p["name"], f"v{p['version']}") in wanted}
    edges, todo = {}, [metadata["resolve"]["root"]]
    while todo:
        package = todo.pop()
        if package in edges:
            continue
        # The kind null marks a normal dependency, not a build or dev dependency.
        edges[package] = sorted(
            dependency["pkg"]
            for dependency in nodes[package]["deps"]
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]) and dependency["pkg"] in wanted
        )
        todo += edges[package]
    return edges


def crate(package, checksums):
    name, version = package["name"], package["version"]
    component = {
        "type": "library",
        "bom-ref": f"pkg:cargo/{name}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:cargo/{name}@{version}",
    }
    if package.get("license"):
        # Old crates use "A/B" for the licence expression "A OR B".
        component["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if checksum := checksums.get((name, version)):
        component["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return component


def lock_checksums():
    """The SHA-256 checksum of each downloaded crate, from Cargo.lock."""
    checksums, name, version = {}, None, None
    with open("Cargo.lock", encoding="utf-8") as lock:
        for line in lock:
            key, _, value = line.strip().partition(" = ")
            if key == "name":
                name = value.strip('"')
            elif key == "version":
                version = value.strip('"')
            elif key == "checksum":
                checksums[name, version] = value.strip('"')
    return checksums


def debian(package, what):
    try:
        version = run("dpkg-query", "--show", "--showformat", "${source:Version}", package).strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    purl = f"pkg:deb/debian/{package}@{version}"
    return {"type": "library", "bom-ref": purl, "name": what, "version": version, "purl": purl}


def main():
    target = sys.argv[1] if len(sys.argv) > 1 else f"{platform.machine()}-unknown-linux-gnu"
    metadata = json.loads(
        run("cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", target, "--manifest-path", "Cargo.toml")
    )
    packages = {package["id"]: package for package in metadata["packages"]}
    checksums = lock_checksums()
    edges = linked(metadata, target)
    root = metadata["resolve"]["root"]
    refs = {package: crate(packages[package], checksums)["bom-ref"] for package in edges}
    others = [part for part in (debian("libc6-dev", "glibc"), debian("ca-certificates", "ca-certificates")) if part]
    components = [crate(packages[package], checksums) for package in edges if package != root] + others
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {**crate(packages[root], checksums), "type": "application"},
            "properties": [{"name": "cargo:target", "value": target}],
        },
        "components": sorted(components, key=lambda part: part["purl"]),
        "dependencies": sorted(
            (
                {
                    "ref": refs[package],
                    "dependsOn": sorted({refs[other] for other in others_})
                    + ([part["bom-ref"] for part in others] if package == root else []),
                }
                for package, others_ in edges.items()
            ),
            key=lambda entry: entry["ref"],
        ),
    }
    # The serial number is a hash of the content, so that the document is reproducible.
    number = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(document, sort_keys=True))
    document["serialNumber"] = f"urn:uuid:{number}"
    json.dump(document, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
