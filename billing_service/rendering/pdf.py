"""Renders a statement as PDF: the HTML page, as WeasyPrint (extra `pdf`) prints it."""

from typing import Any

from billing_client.contract.problems import ProblemError, problem
from billing_client.contract.statements.structs import Statement
from billing_service.rendering.statements import render_html


def render_pdf(statement: Statement[str]) -> bytes:
    """The statement as PDF. Raises ProblemError (406) if this service cannot make one."""
    try:
        from weasyprint import HTML  # type: ignore[import-untyped]  # it ships no types
    except (ImportError, OSError) as error:  # OSError: Pango, which it draws with, is not installed
        detail = (
            "This service makes no PDF. Ask for HTML and print it, or have the operator install Pango and run: "
            "pip install 'billing-system[service,pdf]'"
        )
        raise ProblemError(problem("not_acceptable", detail)) from error
    pdf: bytes = HTML(string=render_html(statement).decode(), url_fetcher=_nothing).write_pdf()
    return pdf


def _nothing(url: str, *_: Any, **__: Any) -> Any:
    """Refuse to load anything. The page names nothing to load."""
    raise ValueError(f"a statement loads nothing, not {url!r} either")
