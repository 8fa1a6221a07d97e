"""How many instructions of NVIDIA's machine code a thread executes, from nvdisasm's listing."""

import heapq
import re


def shortest(listing: str) -> int:
    """Those of the shortest way to an exit, by way of the target of the first jump.

    Jumps that skip what is rare shorten a way, so that the shortest is the usual one: without calls, of
    blocks that are whole and plain.
    """
    code: list[str] = []
    labels: dict[str, int] = {}
    for line in listing.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(code)
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,5}\*/\s+(.*?);", line):
            code.append(instruction[1].strip())

    def target(at: int) -> int:
        return labels[re.findall(r"\.L_x_\d+", code[at])[0]]

    def following(at: int) -> list[int]:
        name = re.sub(r"^@!?U?P\d+ +", "", code[at])
        if name.startswith("CALL"):
            return []
        if not name.startswith("BRA") or name.startswith("BRA.DIV"):
            return [at + 1]
        return [target(at), at + 1] if code[at].startswith("@") else [target(at)]

    first = next(i for i, line in enumerate(code) if "BRA" in line)
    waiting, seen = [(first + 1, target(first))], set()
    while True:
        length, at = heapq.heappop(waiting)
        if code[at] == "EXIT":  # others leave with some threads of a warp
            return length
        if at not in seen:
            seen.add(at)
            for successor in following(at):
                heapq.heappush(waiting, (length + 1, successor))
