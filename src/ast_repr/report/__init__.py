"""Reports: tables and figures from the files in run folders, nothing else. No number is typed here, torch is never imported.

`results` reads run folders into tables, `tables` writes them as text, Markdown and CSV, `plots` draws them.
"""
