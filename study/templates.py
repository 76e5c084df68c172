"""A trainer's own config, rendered from its template, which is Jinja's."""

import functools
import traceback
from typing import Any

from study.terms import TERMS, Placed, Terms, unknown_term
from study.trainers import TemplateConfig
from trainer.problems import ConfigError, Problem


def render_config(placed: Placed) -> str | None:
    """Return the trainer's own config for a run; None without a template.

    Raises ConfigError, which names the template and the line.
    """
    template = placed.trainer.config
    if template is None:
        return None
    assert template.text is not None, "templates are read when the study is loaded"
    compiled, names = _compiled(template.file, template.text)
    terms = Terms(placed)
    try:
        return compiled.render({name: terms[name] for name in names})
    except Exception as error:  # whatever the expressions of a template raise
        line = _line_of(error)
        message = f"cannot be rendered: {type(error).__name__}: {error}"
        raise ConfigError(
            template.file, [Problem((), message, source=template.file, line=line)]
        ) from None


@functools.cache
def _compiled(file: str, text: str) -> tuple[Any, tuple[str, ...]]:
    """Return a template and the terms in it. Raises ConfigError."""
    # Imported only here: studies with our own trainer alone need no templates.
    import jinja2
    from jinja2 import meta, nodes

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        finalize=_written,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    try:
        tree = environment.parse(text)
    except jinja2.TemplateSyntaxError as error:
        found = Problem((), f"not a template: {error.message}", source=file, line=error.lineno)
        raise ConfigError(file, [found]) from None
    names = meta.find_undeclared_variables(tree)
    unknown = {name for name in names - TERMS.keys() if name not in environment.globals}
    lines = {node.name: node.lineno for node in tree.find_all(nodes.Name) if node.name in unknown}
    if lines:
        problems = [
            Problem((), unknown_term(name), source=file, line=line) for name, line in lines.items()
        ]
        raise ConfigError(file, problems)
    template = environment.from_string(text)
    return template, tuple(sorted(names & TERMS.keys()))


def _written(value: Any) -> Any:
    """Return a value as it is written: 1e-05 is a text in YAML 1.1, and 1.0e-05 a number."""
    text = repr(value) if isinstance(value, float) else ""
    return text.replace("e", ".0e") if "e" in text and "." not in text else value


def template_problems(template: TemplateConfig) -> tuple[Problem, ...]:
    """Return the problems with a template, whatever the run: its syntax, and unknown names."""
    assert template.text is not None
    try:
        _compiled(template.file, template.text)
    except ConfigError as error:
        return error.problems
    return ()


def _line_of(error: BaseException) -> int | None:
    """Return the line of a template in which an error was raised."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == "<template>"
    ]
    return lines[-1] if lines else None
