"""Reports: tables and figures from the files in run folders, nothing else. No number is typed here, torch is never imported.

Numbers: `results` reads run folders into tables (`shape` says what a whole results.json holds), `studies` picks the rows that
answer a question, `compare` puts an interval on the difference of two rows, `tables` writes text, Markdown and CSV.
Figures: `plots` draws them all from `methods`, `instruments`, `course`, `sweep` and `difference`, in the manner of `style`.
"""
