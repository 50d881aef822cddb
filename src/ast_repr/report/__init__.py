"""Reports: tables and figures from the files in run folders; torch is never imported.

`results` reads run folders into tables, `published` and `studies` read what a recipe adds to them,
`compare` computes differences with intervals, `tables` writes text, Markdown and CSV, and `plots`
draws all figures.
"""
