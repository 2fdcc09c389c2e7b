"""Builds a web page in one file, which loads nothing else and in which every text is escaped.

Each function takes plain texts and `Markup`, and escapes the plain texts.
"""

import base64
import html

STYLE = """
*{box-sizing:border-box}
html{color-scheme:light;-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:1180px;padding:20px 24px 48px;background:#fff;color:#24292f;
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:26px;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:19px;margin:36px 0 10px;padding-bottom:4px;border-bottom:1px solid #d8dee4}
h3{font-size:15px;margin:18px 0 6px}
p{margin:6px 0 12px;max-width:78ch;overflow-wrap:anywhere}
.note{color:#57606a;font-size:13.5px}
nav{font-size:14px;margin:12px 0 0}
nav a{display:inline-block;margin:0 14px 4px 0}
a{color:#0969da}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:10px;margin:16px 0}
.card{border:1px solid #d8dee4;border-radius:8px;padding:10px 12px;background:#f6f8fa;min-width:0}
.card b{display:block;font-size:22px;line-height:1.25;overflow-wrap:anywhere}
.card span{color:#57606a;font-size:13px}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,360px),1fr));gap:16px;
align-items:start}
.charts>*{min-width:0}
img{max-width:100%;height:auto;display:block}
figure{margin:0;min-width:0}
figcaption{font-size:12.5px;line-height:1.35;color:#24292f;margin-top:4px;overflow-wrap:anywhere}
figcaption small{color:#57606a;font-size:11.5px}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(104px,1fr));gap:14px}
.tiles.wide{grid-template-columns:repeat(auto-fill,minmax(150px,1fr))}
.tiles img{width:100%;border:1px solid #d8dee4;image-rendering:pixelated}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:4px}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:14px;margin:4px 0 12px}
th,td{text-align:left;padding:4px 14px 4px 0;border-bottom:1px solid #eaeef2;vertical-align:top}
th{font-weight:600;color:#57606a;font-size:13px}
td{overflow-wrap:anywhere}
.texts td:first-child{overflow-wrap:normal}
.numbers td:not(:first-child),.numbers th:not(:first-child){text-align:right;
font-variant-numeric:tabular-nums;white-space:nowrap}
.right{color:#116329}
.wrong{color:#a40e26}
pre{background:#f6f8fa;border:1px solid #d8dee4;border-radius:8px;padding:10px 12px;font-size:13px;
line-height:1.45;white-space:pre-wrap;overflow-wrap:anywhere;margin:6px 0 12px}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
details{margin:8px 0}
summary{cursor:pointer;color:#0969da}
@media(max-width:520px){body{padding:14px 14px 36px;font-size:14.5px}h1{font-size:21px}
h2{font-size:17px}th,td{padding-right:9px;font-size:13px}
.cards{grid-template-columns:repeat(2,1fr)}.card b{font-size:18px}}
@media print{nav{display:none}}
"""


class Markup(str):
  """HTML that must not be escaped again."""


def join(parts):
  """Joins several pieces into one Markup."""
  return Markup(''.join(escape(part) for part in parts))


def escape(value):
  """Returns the Markup of a value: unchanged if it is Markup, otherwise its escaped text.

  File names may hold bytes that are not UTF-8. They are replaced.
  """
  if isinstance(value, Markup):
    return value
  return Markup(html.escape(str(value).encode('utf-8', 'replace').decode()))


def tag(name, *parts, **attributes):
  """Builds an element, as in `tag('p', 'text', class_='note')`; attributes are escaped too."""
  written = ''.join(f' {key.rstrip("_")}="{escape(str(value))}"' for key, value in attributes.items())
  return Markup(f'<{name}{written}>{join(parts)}</{name}>')


def image(png, alt):
  """Builds an image that is part of the page. `png`: bytes; `alt`: str, a description of the image."""
  data = base64.b64encode(png).decode()
  return Markup(f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}">')


def table(header, rows, numbers=False):
  """Builds a table, which scrolls by itself on narrow screens.

  Args:
    header: texts of the header's cells, or () for no header.
    rows: sequences of cells.
    numbers: bool, whether all columns except the first are aligned to the right.
  """
  line = lambda cell, cells: tag('tr', *(tag(cell, value) for value in cells))
  head = tag('thead', line('th', header)) if header else ''
  return tag(
    'div',
    tag(
      'table',
      head,
      tag('tbody', *(line('td', row) for row in rows)),
      class_='numbers' if numbers else 'texts',
    ),
    class_='scroll',
  )


def document(title, lead, sections):
  """Builds the page.

  Args:
    title: str.
    lead: Markup between the headline and the links to the sections.
    sections: [(id, heading, Markup)].

  Returns:
    str.
  """
  links = tag('nav', *(tag('a', heading, href=f'#{name}') for name, heading, _ in sections))
  body = join(tag('section', tag('h2', heading), content, id=name) for name, heading, content in sections)
  # An empty icon, since a browser would request one otherwise.
  return (
    f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "img-src data:; style-src 'unsafe-inline'\">\n"
    f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n'
    f'<style>{STYLE}</style>\n</head>\n<body>\n'
    f'{tag("h1", title)}\n{lead}\n{links}\n{body}\n</body>\n</html>\n'
  )
