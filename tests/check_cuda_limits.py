#!/usr/bin/env python3
"""Compile-only limits of the CUDA kernels: registers, stack (which holds spills) and instructions, read from the cubins in
the object files that nvcc made, of one architecture. The table names every kernel; one that it does not name is an error.

usage: check_cuda_limits.py [--measured] <table> <sm, as 90> <object>...
--measured prints the table's lines as they would be with today's figures."""
import re
import struct
import subprocess
import sys

EM_CUDA = 190
REGCOUNT, FRAME_SIZE, MIN_STACK_SIZE = 0x2F, 0x11, 0x12  # attributes in .nv.info
INSTRUCTION_BYTES = 16


class Elf:
    def __init__(self, data):
        self.data = data
        self.flags, = struct.unpack_from("<I", data, 48)
        self.abi = data[8]
        table, = struct.unpack_from("<Q", data, 40)
        size, count, names = struct.unpack_from("<HHH", data, 58)
        self.raw = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * size) for i in range(count)]
        strings = self.content(self.raw[names])
        self.sections = {text(strings, s[0]): s for s in self.raw}

    def content(self, section):
        return self.data[section[4]:section[4] + section[5]]

    def sm(self):
        return self.flags >> 8 & 255 if self.abi >= 8 else self.flags & 255

    def symbols(self):
        section = self.sections[".symtab"]
        strings = self.content(self.raw[section[6]])
        body = self.content(section)
        return [text(strings, struct.unpack_from("<I", body, i)[0]) for i in range(0, len(body), 24)]


def text(strings, at):
    return strings[at:strings.index(b"\0", at)].decode()


def cubins(path, sm):
    data = open(path, "rb").read()
    section = Elf(data).sections.get(".nv_fatbin")
    if not section:
        return
    fat = data[section[4]:section[4] + section[5]]
    at = fat.find(b"\x7fELF")
    while at >= 0:
        if struct.unpack_from("<H", fat, at + 18)[0] == EM_CUDA:
            elf = Elf(fat[at:])
            if elf.sm() == sm:
                yield elf
        at = fat.find(b"\x7fELF", at + 4)


def kernels(elf):
    """name -> [registers, stack, instructions]"""
    symbols = elf.symbols()
    found = {name[6:]: [0, 0, section[5] // INSTRUCTION_BYTES] for name, section in elf.sections.items() if name.startswith(".text.")}
    info = elf.content(elf.sections[".nv.info"])
    at = 0
    while at < len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, at)
        at += 4
        if form != 4:  # the value stands in `size`
            continue
        if attribute in (REGCOUNT, FRAME_SIZE, MIN_STACK_SIZE):
            symbol, value = struct.unpack_from("<II", info, at)
            one = found.get(symbols[symbol])
            if one:
                which = 0 if attribute == REGCOUNT else 1
                one[which] = max(one[which], value)
        at += size
    return found


def short(name):
    name = name.replace("(anonymous namespace)::", "")
    name = re.sub(r"^void ", "", name)
    depth = 0
    for i, c in enumerate(name):
        depth += (c == "<") - (c == ">")
        if c == "(" and depth == 0:
            name = name[:i]
            break
    return re.sub(r"quantplug::kernels::v\w+::cuda::", "", name)


def measure(sm, objects):
    mangled = {}
    for path in objects:
        for elf in cubins(path, sm):
            mangled.update(kernels(elf))
    names = subprocess.run(["c++filt"], input="\n".join(mangled), text=True, capture_output=True, check=True).stdout.split("\n")
    found = {}
    for name, figures in zip(map(short, names), mangled.values()):
        if name in found:
            sys.exit(f"FAILED: two kernels are called {name}: rename one")
        found[name] = figures
    return found


def read_table(path):
    """kernel | registers | stack | instructions | why it has a stack"""
    table = {}
    for number, line in enumerate(open(path), 1):
        line = line.split("#")[0].strip()
        if not line:
            continue
        columns = [column.strip() for column in line.split("|")]
        if len(columns) != 5 or columns[0] in table:
            sys.exit(f"FAILED: {path}:{number}: five columns, a kernel once")
        if int(columns[2]) and not columns[4]:
            sys.exit(f"FAILED: {path}:{number}: a stack needs a reason")
        table[columns[0]] = [int(column) for column in columns[1:4]]
    return table


def main():
    arguments = [a for a in sys.argv[1:] if a != "--measured"]
    path, sm, objects = arguments[0], int(arguments[1]), arguments[2:]
    found = measure(sm, objects)
    if not found:
        sys.exit(f"FAILED: no code for sm_{sm} in {len(objects)} objects (is it compressed? nvcc --no-compress)")
    if "--measured" in sys.argv:
        for name, (registers, stack, instructions) in sorted(found.items()):
            print(f"{name:48s} | {-(-registers // 8) * 8:3d} | {stack:3d} | {-(-instructions * 11 // 1000) * 100:6d} |")
        return
    table = read_table(path)
    failures = [f"{name} is in {path} and not in the objects: take its line out" for name in table if name not in found]
    for name, figures in sorted(found.items()):
        if name not in table:
            failures.append(f"{name} is not in {path}: add a line ({figures[0]} registers, stack {figures[1]}, {figures[2]} instructions)")
            continue
        for what, value, limit in zip(("registers", "bytes of stack", "instructions"), figures, table[name]):
            if value > limit:
                failures.append(f"{name}: {value} {what}, and {limit} are allowed")
    for failure in failures:
        print("FAILED:", failure)
    if failures:
        sys.exit(1)
    print(f"{len(found)} kernels within their limits on sm_{sm}")


main()
