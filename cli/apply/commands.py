"""`moor apply`, `moor diff` and `moor export`."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cli.apply import carry_out
from cli.apply.nouns import BY_KIND, Noun
from cli.apply.plan import Create, Delete, Found, Keep, Plan, Replace, Step, Update, is_deleted, is_owned, plan
from cli.apply.read import Document, label_of, read
from cli.output import to_dict, to_yaml
from cli.session import Session, pass_session, project_option
from cli.words import key_values
from moorage.client import Client
from moorage.errors import InvalidSpec, NotReady

_WORDS: dict[type[Step], tuple[str, str]] = {
    Create: ("created", "would be created"),
    Update: ("updated", "would be updated"),
    Replace: ("replaced", "would be replaced"),
    Keep: ("unchanged", "unchanged"),
}
_files = click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="File or folder of YAML or JSON; - is standard input. Repeatable.",
)
_prune = click.option(
    "--prune",
    multiple=True,
    metavar="K=V",
    help="Delete what carries this label (all of them, if repeated) and is in no file.",
)


@click.command("apply")
@_files
@_prune
@click.option("--replace", "may_replace", is_flag=True, help="Give instances a new container where they need one.")
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would be done.")
@click.option("--yes", "-y", is_flag=True, help="Delete without asking.")
@project_option
@pass_session
def apply(
    session: Session, files: tuple[Path, ...], prune: tuple[str, ...], may_replace: bool, dry_run: bool, yes: bool
) -> None:
    """Make objects be as files say, in the order in which they need each other; what is so already is left alone.

    A file has documents with `kind:` (such as Network), `name:` and the API's fields, as `moor export` prints them. Nothing is changed
    before the control plane has found all of them good; every error is told with file and document. What a document leaves out goes back
    to its default.
    """
    labels = dict(key_values("prune", prune))
    documents = _read(files, session.project)

    async def work(client: Client) -> None:
        _, made = await _plan(client, documents, session.project, labels)
        refused = [step for step in made.steps if isinstance(step, Replace)]
        if refused and not (may_replace or dry_run):
            lines = "; ".join(f"{step.document.where} {step.document.label}: {step.why}" for step in refused)
            raise NotReady(f"{lines}; --replace does that, and its files are gone", reason="NEEDS_REPLACE")
        _note_fixed(made)
        if made.deletes and not dry_run and not yes:
            names = "\n".join(f"  {label_of(step.noun, step.name)}" for step in made.deletes)
            click.confirm(f"Delete, since no file names it:\n{names}\n?", abort=True, err=True)
        for step in made.steps:
            if not dry_run:
                await carry_out.take(client, step)
            paths = f" ({', '.join(step.paths)})" if isinstance(step, Update | Replace) else ""
            click.echo(f"{step.document.label} {_WORDS[type(step)][dry_run]}{paths}")
        for doomed in made.deletes:
            if not dry_run:
                await carry_out.take(client, doomed)
            click.echo(f"{label_of(doomed.noun, doomed.name)} {'would be deleted' if dry_run else 'deleted'}")

    session.run(work)


@click.command("diff")
@_files
@_prune
@click.option("--exit-code", is_flag=True, help="Exit with 1 where something differs.")
@project_option
@pass_session
def diff(session: Session, files: tuple[Path, ...], prune: tuple[str, ...], exit_code: bool) -> None:
    """Show what `moor apply` would change, line by line, as the control plane would have it."""
    labels = dict(key_values("prune", prune))
    documents = _read(files, session.project)

    async def work(client: Client) -> bool:
        found, made = await _plan(client, documents, session.project, labels)
        _note_fixed(made)
        texts = [*(_diff_of(step, found) for step in made.steps), *(_diff_of_delete(step) for step in made.deletes)]
        click.echo("".join(texts), nl=False)
        return any(texts)

    if session.run(work) and exit_code:
        click.get_current_context().exit(1)


@click.command("export")
@click.argument("kinds", nargs=-1, metavar="[KIND]...")
@click.option("--label", "-l", "words", multiple=True, metavar="K=V", help="Only what carries it.")
@project_option
@pass_session
def export(session: Session, kinds: tuple[str, ...], words: tuple[str, ...]) -> None:
    """Print objects of the project as documents for `moor apply`; of all kinds, or of those that are named, such as Network.

    What groups, jobs and routers make is left out, and so are all bytes of secrets, configs and private keys.
    """
    labels = dict(key_values("label", words))
    unknown = sorted(set(kinds) - BY_KIND.keys())
    if unknown:
        raise click.UsageError(f"there is no {unknown[0]}; there is {', '.join(BY_KIND)}")

    async def work(client: Client) -> None:
        found = carry_out.everything(client, session.project, lambda noun: not kinds or noun.kind in kinds)
        async for noun, one in found:
            if not (is_owned(one) or is_deleted(one)) and (not labels or carry_out.carries(one, labels)):
                click.echo(f"---\n{to_yaml(document_of(noun, one))}", nl=False)

    session.run(work)


def document_of(noun: Noun, message: Any) -> dict[str, Any]:
    """An object as a file has it."""
    whole = to_dict(message)
    fields = {name: whole[name] for name in noun.fields if name in whole}
    return {"kind": noun.kind, "name": noun.short_name(message.name), **fields}


def _read(files: tuple[Path, ...], project: str) -> list[Document]:
    documents, problems = read(files, project)
    if problems:
        raise InvalidSpec(problems)
    return documents


async def _plan(
    client: Client, documents: list[Document], project: str, labels: Mapping[str, str]
) -> tuple[dict[str, Found], Plan]:
    look = carry_out.Look(client, documents)
    await look.run()
    if look.errors:
        _, first = look.errors[0]
        if len(look.errors) == 1 and not isinstance(first, InvalidSpec):
            first.message = f"{look.errors[0][0].where} {look.errors[0][0].label}: {first.message}"
            raise first
        raise InvalidSpec(carry_out.violations(look.errors))
    doomed = [
        (noun, one)
        for noun, one in ([found async for found in carry_out.everything(client, project)] if labels else [])
        if carry_out.carries(one, labels)
    ]
    return look.found, plan(documents, look.found, doomed)


def _note_fixed(made: Plan) -> None:
    for step in made.steps:
        if isinstance(step, Update | Keep) and step.fixed:
            fields = ", ".join(step.fixed)
            click.echo(f"{step.document.label}: {fields} cannot be changed and stays as it is", err=True)


def _diff_of(step: Step, found: Mapping[str, Found]) -> str:
    if isinstance(step, Keep):
        return ""
    document = step.document
    before = found.get(document.name)
    after = document.message if before is None or before.updated is None else before.updated
    old = "" if before is None else to_yaml(document_of(document.noun, before.now))
    return _unified(old, to_yaml(document_of(document.noun, after)), document.label, document.where)


def _diff_of_delete(step: Delete) -> str:
    name = label_of(step.noun, step.name)
    return _unified(f"kind: {step.noun.kind}\nname: {step.noun.short_name(step.name)}\n", "", name, step.why)


def _unified(old: str, new: str, name: str, where: str) -> str:
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), name, f"{name} ({where})"
    )
    return "".join(lines)
