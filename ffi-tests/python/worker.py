"""A child process of the scenario tests: runs the lines of code that it gets on its standard input.

Each line is a JSON string of Python; each answer is one line of JSON. Descriptors come in as SOURCE:TARGET pairs.
LISTEN_PID=self stands for this process's own pid, which nobody can know before it exists.
"""

import json
import os
import sys
import traceback

for pair in filter(None, sys.argv[1].split(",")):
    source, target = map(int, pair.split(":"))
    os.dup2(source, target, inheritable=True)
    os.close(source)
if os.environ.get("LISTEN_PID") == "self":
    os.environ["LISTEN_PID"] = str(os.getpid())

import orphan  # noqa: F401, E402
import support  # noqa: E402
import udsipc_capi  # noqa: E402

names = {**vars(support), **vars(udsipc_capi)}
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

for line in sys.stdin:
    code = json.loads(line)
    try:
        try:
            compiled = compile(code, "<test>", "eval")
        except SyntaxError:
            exec(compile(code, "<test>", "exec"), names)
            answer = {"value": None}
        else:
            answer = {"value": eval(compiled, names)}
        text = json.dumps(answer, default=repr)
    except BaseException:  # noqa: BLE001 - goes to the test that asked
        text = json.dumps({"error": traceback.format_exc()})
    answers.write(text + "\n")
    answers.flush()
