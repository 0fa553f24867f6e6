"""The command ``runs``: every student in one table, chosen, sorted and grouped, and as a page."""

from pathlib import Path

import click

from data_schemas.errors import ProtoRKDError
from data_schemas.files import write_atomic
from pipeline.commands.artifacts import available_stages
from pipeline.commands.store_options import store_options
from pipeline.log import log, show_log
from pipeline.options.completion import complete_references
from pipeline.results.columns import keep_rows, sort_rows
from pipeline.results.formats import FORMATS
from pipeline.results.groups import group_rows
from pipeline.results.rows import result_rows
from pipeline.results.table import result_table
from pipeline.store.store import Store
from pipeline.terminal import echo


@click.command(params=store_options())
@click.option("--where", multiple=True, metavar="CONDITION", help="Show only what fulfils it, as lr=0.002; repeatable.")
@click.option("--sort", metavar="NAME", help="Option or metric to sort by, the best first. Default: the headline.")
@click.option(
    "--group-by",
    multiple=True,
    metavar="OPTION",
    help="Make one row of those that differ in it alone: mean and standard deviation, as for seed; repeatable.",
)
@click.option(
    "--metric", multiple=True, metavar="NAME", help="Metric to show; repeatable. Default: what students are judged by."
)
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="table", show_default=True, help="Format.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json: a list of flat objects.")
@click.option(
    "--page", type=click.Path(path_type=Path, dir_okay=False), help="Also write a page with curves and images."
)
@click.option(
    "--baseline",
    metavar="REF",
    shell_complete=complete_references("distill"),
    help="Student that the page holds the others against. Default: the first that was made.",
)
def runs(
    *,
    store: Store,
    where: tuple[str, ...],
    sort: str | None,
    group_by: tuple[str, ...],
    metric: tuple[str, ...],
    form: str,
    as_json: bool,
    page: Path | None,
    baseline: str | None,
) -> None:
    """Show every student in one table: the options that differ, what it reached, and what it took.

    A CONDITION is a name, one of = != < > <= >=, and a value: lr=0.002, loss=infonce=1, test/mean_recall>30. Of a
    metric the end of its name is enough, where it fits one alone. Metrics come from the newest evaluation that has
    them, and from the student's own validation.
    """
    show_log()
    if baseline is not None and page is None:
        raise ProtoRKDError("--baseline must go with --page; got it alone. Pass --page runs.html, or use compare.")
    known = result_rows(store, available_stages())
    if not known:
        log.info("%s holds no students.", store)
        where, sort, group_by, metric = (), None, (), ()  # nothing has a name yet
    students = sort_rows(keep_rows(known, where), None)
    if known and not students:
        log.info("None of %d students fulfils %s.", len(known), " and ".join(where))
    rows = sort_rows(group_rows(students, group_by, known=known), sort, known=known)
    table = result_table(rows, metrics=metric, known=known)
    if page is not None:
        from stages.evaluate.runs.page import write_runs_page

        html = write_runs_page(table, students, baseline=baseline, stages=available_stages(), store=store)
        write_atomic(page, html.encode())
        log.info("page: %s", page)
    if rows or form != "table" or as_json:
        echo(FORMATS["json" if as_json else form](table))
