"""The report's style sheet: one palette for light and dark, safe for colour-blind eyes.

Hues after Okabe and Ito, "Color universal design" (2008), lightened for the dark theme.
"""

CSS = """
:root {
  color-scheme: light dark;
  --font: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif;
  --page: #f6f7f9; --paper: #ffffff; --line: #e3e6ea;
  --text: #1b2430; --muted: #5c6773; --grid: #e9ecef;
  --reference: #8b95a1; --estimate: #0b62a4; --band: #56b4e9; --epistemic: #d98a00;
  --good: #00825f; --warn: #c77700; --bad: #c04a00; --cautious: #0b62a4;
  --good-tint: #e2f4ee; --near-tint: #f4f5f0; --bad-tint: #fde9dd; --cautious-tint: #e3eff9;
  --series-1: #0072b2; --series-2: #d55e00; --series-3: #009e73;
  --series-4: #b6558f; --series-5: #c98a00; --series-6: #3f9bd1;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #10151b; --paper: #182028; --line: #2a343f;
    --text: #e8edf2; --muted: #9aa7b4; --grid: #26303a;
    --reference: #7d8996; --estimate: #6cb8f0; --band: #3d7fb0; --epistemic: #e8a63a;
    --good: #41c79c; --warn: #efb04a; --bad: #ff9259; --cautious: #6cb8f0;
    --good-tint: #15362d; --near-tint: #252d2c; --bad-tint: #43291b; --cautious-tint: #17314a;
    --series-1: #56a9e0; --series-2: #ff8f57; --series-3: #3cc79c;
    --series-4: #df94c2; --series-5: #efb541; --series-6: #92d2fa;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.55 var(--font); -webkit-text-size-adjust: 100%;
}
main { max-width: 62rem; margin: 0 auto; padding: 3.5rem 1.25rem 5rem; }
.eyebrow { margin: 0; color: var(--muted); font-size: .85rem; letter-spacing: .04em; }
h1 { margin: .4rem 0 1rem; font-size: clamp(1.7rem, 4.5vw, 2.5rem); line-height: 1.15;
     letter-spacing: -.02em; }
h2 { margin: 4.5rem 0 .6rem; font-size: 1.55rem; letter-spacing: -.01em;
     overflow-wrap: anywhere; }
h3 { margin: 2.8rem 0 .5rem; font-size: 1.08rem; }
p { margin: .5rem 0; max-width: 46rem; }
.headline { font-size: 1.14rem; max-width: 50rem; }
.note { color: var(--muted); font-size: .93rem; }
.badge { display: inline-block; padding: .12em .75em; border-radius: 99px; font-size: .82rem;
         font-weight: 600; vertical-align: middle; white-space: nowrap; border: 1px solid; }
.good { color: var(--good); } .near { color: var(--good); } .bad { color: var(--bad); }
.cautious { color: var(--cautious); } .unsure { color: var(--muted); }
.warn { color: var(--warn); }
.tiles { display: grid; gap: .8rem; margin: 1.8rem 0;
         grid-template-columns: repeat(auto-fit, minmax(11.5rem, 1fr)); }
.tiles.wide { grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); }
.tile, figure, .table, .list { background: var(--paper); border: 1px solid var(--line);
                        border-radius: 12px; }
.list { padding: .3rem 1.3rem .9rem; } .list h3 { margin-top: .9rem; }
.list ul { margin: .4rem 0; padding-left: 1.1rem; } .list li { margin: .45rem 0; }
.list li.bad::marker { color: var(--bad); } .list li.bad { color: inherit; font-weight: 550; }
.wrap { white-space: normal; }
.tile { padding: 1rem 1.1rem; }
.tile b { display: block; font-size: 1.65rem; font-weight: 600; letter-spacing: -.02em;
          line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile b small { font-size: .95rem; font-weight: 500; color: var(--muted); letter-spacing: 0; }
.tile span { display: block; font-size: .88rem; }
.tile em { display: block; margin-top: .15rem; color: var(--muted); font-size: .8rem;
           font-style: normal; }
figure { margin: 1.2rem 0; padding: 1rem 1.1rem .9rem; }
figure > div { overflow-x: auto; }
figure svg { display: block; width: 100%; height: auto; min-width: 34rem; }
.pair { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); }
.pair figure { margin: 0; }
.pair svg { min-width: 17rem; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption, caption { color: var(--muted); font-size: .89rem; line-height: 1.45; }
figcaption { margin-top: .6rem; max-width: 50rem; }
.table { margin: 1.2rem 0; padding: .9rem 1.1rem; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .87rem;
        font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; padding-top: .7rem; max-width: 50rem; }
th, td { padding: .42rem .4rem; text-align: right; white-space: nowrap;
         border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
th { font-weight: 600; } thead th { color: var(--muted); font-size: .84rem; font-weight: 500;
                                     vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
td small, .table small { color: var(--muted); font-size: .82em; }
td.good { background: var(--good-tint); color: inherit; }
td.near { background: var(--near-tint); color: inherit; }
td.bad { background: var(--bad-tint); color: inherit; }
td.cautious { background: var(--cautious-tint); color: inherit; }
details { margin: 1rem 0; } summary { cursor: pointer; font-weight: 600; }
dl { display: grid; grid-template-columns: minmax(9rem, 15rem) 1fr; gap: .35rem 1.2rem;
     font-size: .92rem; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
pre { overflow: auto; max-height: 28rem; padding: 1rem; border-radius: 10px; font-size: .8rem;
      background: var(--paper); border: 1px solid var(--line); }
footer { margin-top: 5rem; color: var(--muted); font-size: .85rem; }
@media (max-width: 62rem) {
  .table { padding: .8rem .7rem; } table { font-size: .8rem; } thead th { font-size: .76rem; }
  th, td { padding: .38rem .28rem; }
}
@media (max-width: 40rem) {
  main { padding-top: 2rem; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .6rem; }
}
@media print { body { background: #fff; } figure, .table, .tile, .list { break-inside: avoid; } }
"""
