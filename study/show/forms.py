"""The files of a figure. The rules read them while Snakemake plans, so without matplotlib."""

FORMS = (".svg", ".png", ".pdf", "_column.svg", "_column.pdf")
"""Endings of a figure's files: for two columns of a page, and for one."""

OTHER_FORMS = FORMS[1:]
