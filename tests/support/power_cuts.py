"""Derive what a power cut can leave of a folder: names and bytes forced to disk, and any part of the rest.

After ALICE (Pillai et al., All File Systems Are Not Created Equal, OSDI 2014): the operations of a run are watched, and
before each of them the states are derived that a file system may come back with. A file's bytes are certain since its
last fsync, a folder's names since the folder's own; what came later may be there or not, whatever its order.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

Tree = dict[str, bytes | None]
"""Path relative to the folder, and the bytes of a file; None for a folder."""

_WATCHED = ("fsync", "sync", "rename", "replace", "unlink", "remove", "rmdir", "mkdir", "link")


@dataclass
class _Node:
    """A file or a folder, by inode: as it is, and as it was forced to disk."""

    is_folder: bool
    bytes_now: bytes = b""
    names_now: dict[str, int] | None = None
    bytes_safe: bytes | None = None
    names_safe: dict[str, int] | None = None


class PowerCuts:
    """States that a cut before any of the watched operations could leave, without those that were seen before.

    Args:
        root: Folder that is watched; its present content is on disk for certain.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._nodes: dict[int, _Node] = {}
        self._held = ExitStack()  # open files keep their inode, so that a number stands for one file alone
        self._seen: set[frozenset[tuple[str, bytes | None]]] = set()
        self.num_operations = 0
        self.states: list[Tree] = []
        self._look()
        self._make_safe(self._nodes)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch every operation on names, and every wait for the disk, of this process."""
        with pytest.MonkeyPatch.context() as patch, self._held:
            for name in _WATCHED:
                patch.setattr(os, name, self._watching(name))
            yield
            self._derive()

    def _watching(self, name):
        real = getattr(os, name)

        def operation(*args, **options):
            self._derive()
            self.num_operations += 1
            if name == "fsync":
                node = os.fstat(args[0]).st_ino
                self._make_safe([node] if node in self._nodes else [])
                return None
            if name == "sync":
                self._make_safe(self._nodes)
                return None
            return real(*args, **options)

        return operation

    def _derive(self) -> None:
        self._look()
        files = {number: node for number, node in self._nodes.items() if not node.is_folder}
        folders = {number: node for number, node in self._nodes.items() if node.is_folder}
        now = {number: node.bytes_now for number, node in files.items()}
        empty = {number: node.bytes_safe or b"" for number, node in files.items()}
        zeros = {
            number: bytes(len(node.bytes_now)) if node.bytes_safe is None else node.bytes_safe
            for number, node in files.items()
        }
        half = {
            number: node.bytes_now[: len(node.bytes_now) // 2] if node.bytes_safe != node.bytes_now else node.bytes_now
            for number, node in files.items()
        }
        names_now = {number: node.names_now or {} for number, node in folders.items()}
        names_safe = {number: node.names_safe or {} for number, node in folders.items()}
        differing = [number for number in folders if names_now[number] != names_safe[number]]
        mixed = [names_now, names_safe]
        mixed += [names_now | {number: names_safe[number]} for number in differing]
        mixed += [names_safe | {number: names_now[number]} for number in differing]
        for names in mixed:
            for contents in (now, empty, zeros, half):
                self._add(self._tree(names, contents))

    def _tree(self, names: dict[int, dict[str, int]], contents: dict[int, bytes]) -> Tree:
        tree: Tree = {}
        waiting = [("", self._root.stat().st_ino)]
        while waiting:
            place, folder = waiting.pop()
            for name, number in names[folder].items():
                path = f"{place}{name}"
                if number in contents:
                    tree[path] = contents[number]
                elif path not in tree:
                    tree[path] = None
                    waiting.append((f"{path}/", number))
        return tree

    def _add(self, tree: Tree) -> None:
        key = frozenset(tree.items())
        if key not in self._seen:
            self._seen.add(key)
            self.states.append(tree)

    def _look(self) -> None:
        """Read the present content; an operation in another thread may remove a name meanwhile."""
        waiting = [self._root]
        while waiting:
            folder = waiting.pop()
            node = self._node(folder, is_folder=True)
            names = {}
            for entry in sorted(folder.iterdir()):
                names[entry.name] = entry.stat().st_ino
                if entry.is_dir():
                    waiting.append(entry)
                else:
                    self._node(entry, is_folder=False).bytes_now = entry.read_bytes()
            node.names_now = names

    def _node(self, path: Path, *, is_folder: bool) -> _Node:
        number = path.stat().st_ino
        if number not in self._nodes:
            self._nodes[number] = _Node(is_folder)
            self._held.callback(os.close, os.open(path, os.O_RDONLY))
        return self._nodes[number]

    def _make_safe(self, numbers) -> None:
        for number in numbers:
            node = self._nodes[number]
            node.bytes_safe, node.names_safe = node.bytes_now, node.names_now


def lay_out(tree: Tree, root: Path) -> Path:
    """Write a state into an empty folder."""
    root.mkdir(parents=True)
    for path, contents in sorted(tree.items()):
        if contents is None:
            (root / path).mkdir(parents=True, exist_ok=True)
        else:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(contents)
    return root
