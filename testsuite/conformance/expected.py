#!/usr/bin/env python3
"""Compare a table of run_conformance.py with the list of expected failures: expected.py --check|--update TABLE.tsv LIST

LIST has one `kind/test  reason` a line.  --check fails (exit 1) when a listed test passes, a listed test no longer
exists, or a test that is not listed fails.  --update writes LIST; a reason that stands there already is kept.
"""
import csv, re, sys

HEAD = "# Backend tests that do not pass yet: `kind/test  reason`. A test that starts to pass must leave the list.\n"

def read_list(path):
    try: lines = open(path).read().splitlines()
    except FileNotFoundError: return {}
    return dict(l.split(None, 1) if " " in l else (l, "") for l in lines if l and not l.startswith("#"))

def reason(row):
    # Numbers and paths differ from run to run and say nothing here.
    return re.sub(r"\s+", " ", f"{row['status']}: {row['detail']}".rstrip(": "))[:160].rstrip()

def main(mode, table, path):
    rows = {f"{r['kind']}/{r['test']}": r for r in csv.DictReader(open(table), delimiter="\t", quoting=csv.QUOTE_NONE)}
    listed = read_list(path); failed = {k: r for k, r in rows.items() if r["status"] != "pass"}
    print(f"{len(rows) - len(failed)} of {len(rows)} pass, {len(failed)} fail, {len(listed)} listed")
    if mode == "--update":
        with open(path, "w") as f:
            f.write(HEAD)
            for k in sorted(failed): f.write(f"{k}  {listed.get(k) or reason(failed[k])}\n")
        return 0
    news = [f"passes now, take it out of the list: {k}" for k in sorted(listed) if k in rows and k not in failed]
    news += [f"no such test: {k}" for k in sorted(listed) if k not in rows]
    news += [f"fails: {k}  {reason(failed[k])}" for k in sorted(failed) if k not in listed]
    print("\n".join(news)); return 1 if news else 0

if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("--check", "--update"): sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
