"""From Paddle's older format to Paddle Lite's: what newer exporters leave out is put in, then opt converts."""

import importlib.util
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from bench.errors import EXPORT_AGAIN, Failed, Unsupported

#: operators whose output XShape opt looks into, although Paddle no longer writes it
RESHAPING = frozenset({"flatten_contiguous_range", "flatten2", "reshape2", "squeeze2", "unsqueeze2", "transpose2"})
#: attributes that opt insists on, with the values that Paddle's operators are defined by: (operator, attribute) → value
DEFAULTS = {("relu6", "threshold"): 6.0, ("swish", "beta"): 1.0}


class Site(NamedTuple):
    """An operator that lacks something, where it stands, and the variables about it by name."""

    block: Any
    variables: dict[str, Any]
    position: int
    operator: Any


def fix(program: Any) -> None:
    """Adds to a ProgramDesc, in place, what opt 2.13 needs and Paddle from 2.6 on leaves out. Weights are untouched.

    Raises Failed where an operator lacks the input from which the missing part would follow.
    """
    for block in program.blocks:
        variables = {variable.name: variable for variable in block.vars}
        for position, operator in enumerate(block.ops):
            _add_outputs(Site(block, variables, position, operator))
            _add_attributes(operator)


def _add_outputs(site: Site) -> None:
    kind = site.operator.type
    if kind in RESHAPING:
        _add_output(site, "XShape", [0, *_shape_of_input(site)])
    if kind == "instance_norm":
        images, channels = _shape_of_input(site)[:2]
        for parameter in ("SavedMean", "SavedVariance"):
            _add_output(site, parameter, [abs(images) * channels])


def _add_output(site: Site, parameter: str, shape: list[int]) -> None:
    """A variable of the input's type and that shape, unless there is one. opt looks it up; nothing computes it."""
    if any(output.parameter == parameter and output.arguments for output in site.operator.outputs):
        return
    variable = site.block.vars.add()
    variable.CopyFrom(_input(site))
    variable.name, variable.persistable = f"{parameter}_of_{site.position}", False
    tensor = _tensor(variable)
    del tensor.dims[:]
    tensor.dims.extend(shape)
    for empty in [output for output in site.operator.outputs if output.parameter == parameter]:
        site.operator.outputs.remove(empty)
    site.operator.outputs.add(parameter=parameter, arguments=[variable.name])


def _add_attributes(operator: Any) -> None:
    present = {attribute.name for attribute in operator.attrs}
    for (kind, name), value in DEFAULTS.items():
        if kind == operator.type and name not in present:
            operator.attrs.add(name=name, type=_float_type(operator), f=value)


def _float_type(operator: Any) -> int:
    """The number of FLOAT in the enumeration of attribute types."""
    kinds = operator.DESCRIPTOR.fields_by_name["attrs"].message_type.fields_by_name["type"].enum_type
    return int(kinds.values_by_name["FLOAT"].number)


def _input(site: Site) -> Any:
    names = [name for given in site.operator.inputs if given.parameter == "X" for name in given.arguments]
    if not names or names[0] not in site.variables:
        raise Failed(f"{site.operator.type}, operator {site.position}, has no input X", "", EXPORT_AGAIN)
    return site.variables[names[0]]


def _shape_of_input(site: Site) -> list[int]:
    return list(_tensor(_input(site)).dims)


def _tensor(variable: Any) -> Any:
    """What a variable says of its type and shape. The field was renamed in Paddle 3."""
    for field in ("dense_tensor", "lod_tensor"):
        if field in variable.type.DESCRIPTOR.fields_by_name and variable.type.HasField(field):
            return getattr(variable.type, field).tensor
    raise Failed(f"variable {variable.name} is no dense tensor", "", EXPORT_AGAIN)


def nb_from_pdmodel(source: Path, target: str, precision: str, out: Path) -> None:
    """Converts `source`, a .pdmodel beside its .pdiparams, for `target`, "arm" or "x86", into `out`, a .nb.

    opt works in this process and aborts it where it fails; what it says goes to standard error. Raises Unsupported
    for a program in Paddle 3's format, Failed where the program can't be read or opt makes nothing.
    """
    program = read_program(source)
    fix(program)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        fixed = Path(folder) / source.name
        fixed.write_bytes(program.SerializeToString())
        _opt(fixed, source.with_suffix(".pdiparams"), target, precision, out)
    if not out.is_file() or not out.stat().st_size:
        raise Failed(f"opt cannot convert {source.name}", "it wrote no file and gave no reason")
    _clear_padding(out)


def _clear_padding(file: Path) -> None:
    """Behind its version, opt writes what lay in memory; without that, equal conversions are equal files."""
    with file.open("r+b") as stream:
        stream.seek(2)
        version, _, _ = stream.read(16).partition(b"\0")
        stream.seek(2)
        stream.write(version.ljust(16, b"\0"))


def read_program(source: Path) -> Any:
    """The ProgramDesc in a file. Raises Unsupported for one of Paddle 3's format, Failed for anything else."""
    if source.suffix == ".json":
        raise Unsupported(
            "Paddle Lite reads Paddle models in the older format, .pdmodel",
            f"found {source.name}",
            "export it with FLAGS_enable_pir_api=0 in the environment, or with Paddle 2.6",
        )
    from google.protobuf.message import DecodeError

    program = framework().ProgramDesc()
    try:
        program.ParseFromString(source.read_bytes())
    except OSError as error:
        raise Failed(f"cannot read {source.name}", error.strerror or str(error), EXPORT_AGAIN) from error
    except DecodeError as error:
        raise Failed(f"{source.name} is no Paddle program", str(error), EXPORT_AGAIN) from error
    if not any(block.ops for block in program.blocks):
        raise Failed(f"{source.name} is no Paddle program", "it has no operators", EXPORT_AGAIN)
    return program


def framework() -> Any:
    """Paddle's protobuf module, by its file: Paddle brings an OpenMP library of the same name as Paddle Lite's."""
    paddle = importlib.util.find_spec("paddle")
    assert paddle is not None
    assert paddle.origin is not None
    file = Path(paddle.origin).parent / "base" / "proto" / "framework_pb2.py"
    spec = importlib.util.spec_from_file_location("framework_pb2", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _opt(model: Path, parameters: Path, target: str, precision: str, out: Path) -> None:
    from paddlelite.lite import Opt

    opt = Opt()
    opt.set_model_file(str(model))
    opt.set_param_file(str(parameters))
    if precision == "fp16":
        opt.enable_fp16()  # which counts only before the places are set
    opt.set_valid_places(target)
    opt.set_model_type("naive_buffer")
    opt.set_optimize_out(str(out.with_suffix("")))  # it adds .nb
    opt.run()
