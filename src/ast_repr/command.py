# TEMPORARY, to be replaced by its owner
import argparse
def parser(doc): return argparse.ArgumentParser(description=doc)
def add_conf_options(p):
    p.add_argument("--conf-dir",required=True);p.add_argument("--conf",required=True);p.add_argument("--protocol",default="clean");p.add_argument("--set",action="append",default=[])
def add_run_options(p):
    p.add_argument("--seeds",type=lambda t:[int(x) for x in t.split(",")],default=[0]);p.add_argument("--device",default="auto")
def run(main,p): main(p.parse_args())
