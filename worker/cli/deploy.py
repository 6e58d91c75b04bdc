"""``deploy``: the files that run an installation under systemd or on Kubernetes."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from worker.cli.options import as_json
from worker.cli.output import show_json, show_table
from worker.errors import ConfigurationError

_FOLDER = Path(__file__).parents[1] / "deploy"
#: Formats with the page about each.
_PAGES = {"systemd": "SYSTEMD.md", "kubernetes": "KUBERNETES.md"}


@click.command()
@click.argument("form", metavar="systemd|kubernetes", type=click.Choice(list(_PAGES)))
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the files into this folder; without it they are listed.",
)
@click.option("--overwrite", is_flag=True, help="Replace files there that have other content.")
@as_json
def deploy(*, form: str, output: Path | None, overwrite: bool, as_json: bool) -> None:
    """Write the units for systemd, or the manifests for Kubernetes, with the page about them.

    They run the migration, the workers, the scheduler and the readers, each with a login of its own and with
    its passwords in files. For Compose the project has docker-compose.yml at its root.

    \b
    Examples:
      billing-worker deploy systemd
      billing-worker deploy systemd --output units
      billing-worker deploy kubernetes --output manifests --overwrite
    """
    if overwrite and output is None:
        raise click.UsageError("--overwrite goes with --output")
    files = dict(_files(form))
    if output is not None:
        _write(files, output, overwrite=overwrite)
    if as_json:
        folder = None if output is None else str(output)
        shown = [{"file": name, "purpose": _purpose(text)} for name, text in files.items()]
        show_json({"format": form, "folder": folder, "files": shown})
    elif output is None:
        show_table(form, ["file", "purpose"], [(name, _purpose(text)) for name, text in files.items()])
    else:
        click.echo(f"{len(files)} files are in {output}; begin with {output / _PAGES[form]}")


def _files(form: str) -> Iterator[tuple[str, str]]:
    """Yield the files of a format by their names in its folder, its page first."""
    page = _FOLDER / _PAGES[form]
    yield page.name, page.read_text(encoding="utf-8")
    folder = _FOLDER / form
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield str(path.relative_to(_FOLDER)), path.read_text(encoding="utf-8")


def _write(files: Mapping[str, str], folder: Path, *, overwrite: bool) -> None:
    """Write all files, or none where one is there with other content. Raises ConfigurationError."""
    try:
        other = [name for name, text in files.items() if _differs(folder / name, text)]
        if other and not overwrite:
            raise ConfigurationError(
                f"--output {folder}: {', '.join(other)} is there with other content; name another folder, "
                "or say --overwrite"
            )
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"--output {folder}: {error.filename} can't be written: {error.strerror}"
        ) from error


def _differs(path: Path, text: str) -> bool:
    return path.exists() and (not path.is_file() or path.read_bytes() != text.encode())


def _purpose(text: str) -> str:
    """Return the first sentence of a file: a unit's description, else its first comment or heading."""
    lines = text.splitlines()
    described = [line.removeprefix("Description=") for line in lines if line.startswith("Description=")]
    return (described or [lines[0].lstrip("# ")])[0]
