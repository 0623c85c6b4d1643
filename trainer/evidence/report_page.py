"""The report's page: one HTML file that needs nothing else, light or dark as the reader has it, phone or desktop."""

from __future__ import annotations

from html import escape

_STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f5f2; --card: #ffffff; --ink: #1c1b1a; --soft: #66625c; --rule: #e4e1db;
  --unscrubbed: #7a6ff0; --scrubbed: #0f8a7e; --retrained: #b7791f; --forget: #d4493a; --remain: #2f74d0;
  --good: #18794e; --good-wash: #e3f4ea; --bad: #c0362c; --bad-wash: #fdeae7; --wash: #faf0ee;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131416; --card: #1c1e21; --ink: #eceae6; --soft: #a09b93; --rule: #303338;
    --unscrubbed: #a59cff; --scrubbed: #3ecdbc; --retrained: #e3b04b; --forget: #ff7a6b; --remain: #77aef8;
    --good: #5bd394; --good-wash: #16301f; --bad: #ff8577; --bad-wash: #3a1b18; --wash: #2a1f1e;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif;
  -webkit-text-size-adjust: 100%; }
main { max-width: 62rem; margin: 0 auto; padding: 1.6rem 1rem 4rem; }
h1 { font-size: clamp(1.6rem, 5vw, 2.3rem); line-height: 1.15; letter-spacing: -.02em; margin: .2rem 0 .4rem; }
h2 { font-size: 1.15rem; letter-spacing: -.01em; margin: 0 0 .3rem; }
p { margin: 0 0 .8rem; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.eyebrow { color: var(--soft); font-size: .8rem; letter-spacing: .08em; text-transform: uppercase; margin: 0; }
.badge { display: inline-block; padding: .15rem .7rem; border-radius: 99px; font-weight: 650; font-size: .95rem; }
.pass { color: var(--good); background: var(--good-wash); } .fail { color: var(--bad); background: var(--bad-wash); }
.open { color: var(--ink); background: var(--rule); }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 14px;
  padding: 1.1rem; margin-top: 1rem; }
.pair { display: grid; gap: 1rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
.pair section { margin: 0; min-width: 0; }
.verdicts { display: grid; gap: .7rem; grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr));
  margin: 1rem 0 0; }
.verdict { border: 1px solid var(--rule); border-left: 4px solid var(--good); border-radius: 10px;
  padding: .6rem .8rem;
  background: var(--card); }
.verdict.failed { border-left-color: var(--bad); } .verdict.open { border-left-color: var(--soft); }
.verdict b { font-size: 1.5rem; letter-spacing: -.02em; font-variant-numeric: tabular-nums; }
.verdict code { display: block; color: var(--soft); font-size: .8rem; overflow-wrap: anywhere; }
.samples { display: grid; gap: .3rem .5rem; align-items: center; }
.samples > b { font-size: .8rem; color: var(--soft); font-weight: 600; text-align: center; }
.samples > .label { font-weight: 650; text-align: center; }
.samples img { width: 100%; display: block; image-rendering: pixelated; border-radius: 4px; }
.samples .gone { color: var(--forget); }
.samples img.gone { outline: 2px solid var(--forget); outline-offset: 1px; }
.sheets { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); }
.sheets img { width: 100%; image-rendering: pixelated; border-radius: 4px; }
.scroll { overflow-x: auto; margin: 0 -1.1rem -.2rem; padding: 0 1.1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .93rem; }
th, td { padding: .42rem .5rem; text-align: right; border-top: 1px solid var(--rule); white-space: nowrap; }
thead th { border-top: 0; white-space: normal; vertical-align: bottom;
  color: var(--soft); font-weight: 600; font-size: .82rem; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; min-width: 8rem; }
tbody th { font-weight: 500; } tbody th small, td small { display: block; color: var(--soft); font-weight: 400; }
@media (max-width: 34rem) { th, td { padding: .42rem .25rem; } th:first-child, td:first-child { min-width: 5.5rem; }
  td small { font-size: .72rem; } thead th { font-size: .75rem; } }
td small { white-space: normal; max-width: 12rem; margin-left: auto; }
td.main { font-weight: 650; }
figure { margin: 0; } svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font: 11px system-ui, "Segoe UI", Roboto, sans-serif; fill: var(--soft); }
svg .mark { fill: var(--ink); font-weight: 600; } svg .tick { font-size: 10px; }
svg .grid { stroke: var(--rule); } svg .grid.zero { stroke: var(--soft); }
svg .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.unscrubbed { stroke: var(--unscrubbed); fill: var(--unscrubbed); background: var(--unscrubbed); }
.scrubbed { stroke: var(--scrubbed); fill: var(--scrubbed); background: var(--scrubbed); }
.retrained { stroke: var(--retrained); fill: var(--retrained); background: var(--retrained); }
.forget { stroke: var(--forget); fill: var(--forget); background: var(--forget); }
.remain { stroke: var(--remain); fill: var(--remain); background: var(--remain); }
svg .front { stroke: var(--soft); stroke-dasharray: 4 4; } .method { stroke: var(--scrubbed); fill: var(--scrubbed); }
svg .against { fill: var(--forget); } svg .along { fill: var(--remain); }
svg .void { fill: var(--rule); fill-opacity: .45; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; color: var(--soft);
  margin: .4rem 0 .2rem; }
.legend i { display: inline-block; width: .7rem; height: .7rem; border-radius: 3px; margin-right: .35rem; }
details { border-top: 1px solid var(--rule); padding: .6rem 0; } details:first-of-type { border-top: 0; }
summary { cursor: pointer; font-weight: 600; }
dl { display: grid; grid-template-columns: minmax(6rem, auto) 1fr; gap: .2rem 1rem; font-size: .85rem;
  margin: .6rem 0 0; }
dt { color: var(--soft); overflow-wrap: anywhere; } dd { margin: 0; overflow-wrap: anywhere;
  font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: .8rem; }
ul { padding-left: 1.1rem; margin: .3rem 0 0; } li { overflow-wrap: anywhere; }
ul.copies { list-style: none; padding: 0; } ul.copies li { border-top: 1px solid var(--rule); padding: .45rem 0; }
ul.copies code { color: var(--soft); font-size: .8rem; } ul.copies .badge { font-size: .8rem; }
@media print { section { break-inside: avoid; } body { background: none; } }
"""


def page(title: str, body: str) -> str:
    """The whole document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def section(heading: str, body: str, note: str = "") -> str:
    """A card; `note` is text under its heading."""
    about = f'<p class="soft">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(heading)}</h2>{about}{body}</section>"


def definitions(values: dict[str, object]) -> str:
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in values.items())
    return f"<dl>{rows}</dl>"


def details(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"
