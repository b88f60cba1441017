"""A profile as a single HTML file, without scripts."""
from html import escape
from io import StringIO

from .._runtime import terminal
from . import pictures, tables
from .report import Report

# The page's style sheet.
STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 1150px; margin: 2em auto; padding: 0 1em; color: #222; }
h1, h2 { font-weight: 600; }
pre { overflow-x: auto; font: 13px/1.35 ui-monospace, monospace; background: #f6f6f6; padding: 1em; }
svg { max-width: 100%; height: auto; }"""


def page(report: Report) -> str:
    """Return the text of the HTML file: pictures first, then tables."""
    sections = {name: f"<figure>{_svg(figure)}</figure>" for name, figure in pictures.figures(report).items()}
    sections |= {name: f"<pre>{escape(text)}</pre>" for name, text in tables.sections(report, terminal.WIDEST).items()}
    body = "\n".join(f"<h2>{escape(name)}</h2>\n{content}" for name, content in sections.items())
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>fastbp profile: {escape(report.title)}</title><style>{STYLE}</style></head>
<body>
<h1>A step of {escape(report.title)}</h1>
<p>{escape(report.machine)}</p>
{body}
</body>
</html>
"""


def _svg(figure):
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg"):]
