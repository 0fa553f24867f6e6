"""One module writes: nothing else opens a file for writing, but what it hands to a library by a temporary name."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.system.test_imports import MODULES

WRITER = "data_schemas.files"

_DRAFTED = "a library's writer of several files, into a draft that is begun anew where it stands half, and sealed"
_FOREIGN = "goes with an export, and runs where this project is not"

# By module and call: why it may write by itself. What a crash leaves of these is either not believed or not ours.
EXCEPTIONS = {
    ("data_schemas.embedding_array", "zarr.create_array"): "metadata, forced to disk and adopted by the journal",
    ("pipeline.store.file_digests", "sqlite3.connect"): "has transactions of its own; a memory that can be thrown away",
    ("pipeline.remote.cache", "partial.write_bytes"): "a cache: what the disk does not take is fetched again",
    (
        "pipeline.remote.object_store",
        "partial.open",
    ): "bytes are compared as they come, and forced to disk by whoever fetches",
    (
        "pipeline.remote.remote_store",
        "shutil.copyfile",
    ): "whole files into a fetch, which is forced to disk before its record",
    (
        "stages.components.embeddings.reused_rows",
        "np.memmap",
    ): "rows taken over, in the draft's state, on room that was allocated",
    ("data_schemas.pair_sources.text.text_file", "tempfile.TemporaryFile"): "has no name, and goes with its map",
    (
        "stages.components.teacher.weights.mending",
        "target.symlink_to",
    ): "in a folder that goes when the model is loaded",
    ("stages.export.delivery", "shutil.copyfile"): "into a folder beside --to, forced to disk and then renamed",
    ("stages.export.formats.onnx_file", "onnx.save_model"): _DRAFTED,
    ("stages.export.formats.onnx_file", "torch.onnx.export"): "into memory: it is given no path",
    ("stages.export.formats.text_route", "shutil.copyfile"): _DRAFTED,
    ("stages.export.formats.text_route", "module.save"): _DRAFTED,
    ("stages.export.modeling_protorkd", "save"): _FOREIGN,
    ("stages.export.modeling_protorkd", "shutil.copy"): _FOREIGN,
    ("stages.export.modeling_protorkd", "path.write_text"): _FOREIGN,
    (
        "stages.gather_cc.image_writer",
        "partial.write_bytes",
    ): "into --output, forced to disk before its row counts as done",
    ("stages.distill.training.loop", "self._saver.save"): "of ours: copies the state, which the one that writes writes",
    (
        "stages.distill.reporting.trackers",
        "self._module.SummaryWriter",
    ): "its event files, below logs/, never read back",
    ("stages.distill.reporting.trackers", "wandb.init"): "its own files, below logs/, never read back",
    ("stages.evaluate.sets.datasets.downloading", "dataset_class"): "torchvision, into the user's --eval-data-dir",
}

# Calls that write, by their last name, wherever they are from.
_ALWAYS = {
    "write_text", "write_bytes", "touch", "tofile", "savez", "savez_compressed", "savetxt", "save_file", "save_model",
    "save_pretrained", "write_feather", "write_csv", "write_dataset", "to_csv", "to_parquet", "to_sql",
    "to_pickle", "export_chrome_trace", "SummaryWriter", "extractall", "urlretrieve", "FileHandler",
    "RotatingFileHandler", "NamedTemporaryFile", "TemporaryFile", "mkstemp", "symlink_to", "hardlink_to", "copyfile",
    "copy2", "copytree", "copyfileobj", "make_archive", "unpack_archive", "create_array", "create_group", "pwrite",
}  # fmt: skip
# Those whose last name is common: by the two last.
_QUALIFIED = {
    "pq.write_table", "parquet.write_table",
    "np.save", "numpy.save", "torch.save", "onnx.save", "faiss.write_index", "shutil.copy", "shutil.move",
    "shutil.copymode", "os.write", "os.symlink", "os.link", "sqlite3.connect", "wandb.init", "os.truncate",
    "onnx.export", "plt.savefig",
}  # fmt: skip


@dataclass(frozen=True)
class Write:
    """A call that writes: its name as the code has it, and where."""

    name: str
    line: int


def writes_in(source: str) -> Iterator[Write]:
    """Calls in a module that write to files, but for those in a function that is handed to `write_atomic_by`."""
    tree = ast.parse(source)
    handed = _handed_over(tree)

    def visit(node: ast.AST) -> Iterator[Write]:
        if node in handed:
            return
        if isinstance(node, ast.Call) and _writes(node):
            yield Write(_dotted(node.func), node.lineno)
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    yield from visit(tree)


def _handed_over(tree: ast.Module) -> set[ast.AST]:
    """Return the lambdas and the local functions that `write_atomic_by` gets."""
    functions: set[ast.AST] = set()
    for scope in ast.walk(tree):
        if not isinstance(scope, ast.FunctionDef):
            continue
        local = {node.name: node for node in ast.walk(scope) if isinstance(node, ast.FunctionDef)}
        for node in ast.walk(scope):
            if isinstance(node, ast.Call) and _dotted(node.func) == "write_atomic_by":
                write = node.args[1]
                functions.add(local[write.id] if isinstance(write, ast.Name) else write)
    return functions


def _dotted(node: ast.expr) -> str:
    """``a.b.c`` of a name or an attribute; of what is computed, the attributes alone."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed([*parts, node.id] if isinstance(node, ast.Name) else parts))


def _writes(call: ast.Call) -> bool:
    name = _dotted(call.func)
    last = name.rpartition(".")[2]
    if last == "save" and (name.startswith("safetensors.") or any(_is_buffer(arg) for arg in call.args)):
        return False  # gives bytes, or puts them into memory
    if last in _ALWAYS or ".".join(name.split(".")[-2:]) in _QUALIFIED:
        return True
    if last == "save":  # of an image or a model
        return True
    if name == "os.open":
        return any(flag in ast.unparse(call) for flag in ("O_WRONLY", "O_RDWR", "O_CREAT", "O_APPEND", "O_TRUNC"))
    if last in ("open", "fdopen", "memmap", "open_array", "open_group", "ZipFile", "File"):
        return _opens_for_writing(call, takes_path=name in ("open", "io.open", "os.fdopen"))
    return any(keyword.arg == "download" for keyword in call.keywords)


def _is_buffer(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "buffer"


def _opens_for_writing(call: ast.Call, *, takes_path: bool) -> bool:
    modes = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    modes += call.args[1:2] if takes_path else [arg for arg in call.args if isinstance(arg, ast.Constant)]
    for mode in modes:
        if not isinstance(mode, ast.Constant):
            return True  # who knows
        if isinstance(mode.value, str) and len(mode.value) <= 3 and set(mode.value) & set("wax+"):
            return True
    return False


@pytest.mark.parametrize("module", sorted(set(MODULES) - {WRITER}))
def test_module__writes_through_the_one_that_writes(module: str) -> None:
    for write in writes_in(MODULES[module].read_text(encoding="utf-8")):
        assert (module, write.name) in EXCEPTIONS, (
            f"{module}, line {write.line}: {write.name}() writes by itself. Use {WRITER} (write_atomic, or "
            "write_atomic_by around a library's own writer), or name it in EXCEPTIONS with the reason."
        )


@pytest.mark.parametrize(("module", "call"), EXCEPTIONS, ids=lambda value: value)
def test_exception__is_one_that_is_needed(module: str, call: str) -> None:
    assert call in {write.name for write in writes_in(MODULES[module].read_text(encoding="utf-8"))}


@pytest.mark.parametrize(
    "code",
    [
        "open(path, 'w')",
        "open(path, mode='ab')",
        "open(path, mode)",
        "path.open('r+b')",
        "path.open(mode='x')",
        "path.write_text('a')",
        "(root / 'a').write_bytes(data)",
        "io.open(path, 'w')",
        "os.open(path, os.O_RDWR | os.O_CREAT)",
        "os.fdopen(number, 'w')",
        "np.save(path, array)",
        "torch.save(weights, path)",
        "image.save(path)",
        "safetensors.torch.save_file(tensors, path)",
        "pq.write_table(table, path)",
        "shutil.copy(a, b)",
        "shutil.copytree(a, b)",
        "np.memmap(path, mode='r+')",
        "zarr.open_array(path, mode='w')",
        "tempfile.NamedTemporaryFile()",
        "def f():\n    def write(partial):\n        pass\n    write_atomic_by(path, write)\n    path.open('wb')",
    ],
)
def test_writes_in__sees_every_way_to_write(code: str) -> None:
    assert len(list(writes_in(code))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "open(path)",
        "path.open('rb')",
        "path.open(encoding='utf-8')",
        "os.open(path, os.O_RDONLY)",
        "np.memmap(path, mode='r')",
        "image.save(buffer, format='JPEG')",
        "safetensors.torch.save(tensors)",
        "images.open(number)",
        "write_atomic(path, data)",
        "def f():\n    write_atomic_by(path, lambda partial: pq.write_table(table, partial))",
        "def f():\n    def write(partial):\n        with partial.open('wb') as file:\n            file.write(b'')\n"
        "    write_atomic_by(path, write)",
    ],
)
def test_writes_in__passes_over_what_reads_or_is_handed_over(code: str) -> None:
    assert not list(writes_in(code))
