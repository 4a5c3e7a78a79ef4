#!/usr/bin/env bash
# Walks the whole loop with the public command line and git, and leaves the platform running
# until Ctrl-C. ONDOL_DEMO_ONCE=1 ends after the walk with exit code 0 only if every stage happened.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
ondol=${ONDOL_BIN:-$root/target/release/ondol}
work=$(mktemp -d "${TMPDIR:-/tmp}/ondol-demo.XXXXXX")
export HOME=$work/home XDG_CONFIG_HOME=$work/home/.config NO_COLOR=${NO_COLOR:-}
mkdir -p "$HOME"
git config --global user.name "Demo" && git config --global user.email demo@localhost
git config --global init.defaultBranch main

if [ -t 1 ] && [ -z "$NO_COLOR" ]; then bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' green='' red='' dim='' plain=''; unset NO_COLOR; fi
stage=0
began=$(date +%s.%N)
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN{printf "%.1f s", b-a}'; }
title() { stage=$((stage + 1)); started=$(now); printf '\n%s%d. %s%s\n' "$bold" "$stage" "$1" "$plain"; }
good() { printf '   %s✓%s %s %s(%s)%s\n' "$green" "$plain" "$1" "$dim" "$(since "$started")" "$plain"; started=$(now); }
fail() {
    printf '   %s✗ %s%s\n' "$red" "$1" "$plain" >&2
    printf 'the server log: %s\n' "$work/serve.log" >&2
    tail -n 30 "$work/serve.log" >&2 || true
    exit 1
}
field() { python3 -c 'import json,sys
value=json.load(sys.stdin)
for key in sys.argv[1].split("."):
    value=value[int(key)] if isinstance(value,list) else (value or {}).get(key)
print("" if value is None else value)' "$1"; }
quiet() { sed 's/^/   │ /'; }

serve=''
finish() {
    code=$?
    if [ -n "$serve" ] && kill -0 "$serve" 2>/dev/null; then kill -INT "$serve" 2>/dev/null; wait "$serve" 2>/dev/null || true; fi
    [ "$code" = 0 ] && rm -rf "$work" || true
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

title "Start the platform: one binary, one data directory"
port=${ONDOL_DEMO_PORT:-7070} gateway_port=${ONDOL_DEMO_GATEWAY_PORT:-8080}
if [ -n "${ONDOL_DEMO_ONCE:-}" ]; then port=0 gateway_port=0; fi
"$ondol" serve --data "$work/data" --listen "127.0.0.1:$port" --gateway-listen "127.0.0.1:$gateway_port" >"$work/ready" 2>"$work/serve.log" &
serve=$!
for _ in $(seq 200); do [ -s "$work/ready" ] && break; kill -0 "$serve" 2>/dev/null || fail "the server ended"; sleep 0.02; done
read -r word control gateway <"$work/ready" || fail "the server did not say that it is ready"
[ "$word" = ready ] || fail "the server said: $word"
export ONDOL_URL=$control
ONDOL_TOKEN=$(cat "$work/data/admin.token"); export ONDOL_TOKEN
good "ready at $control, applications at $gateway"

title "Make two projects from templates"
(cd "$work" && "$ondol" new web shop 2>&1 | head -n 1 | quiet && "$ondol" new model iris 2>&1 | head -n 1 | quiet)
(cd "$work/shop" && "$ondol" init 2>&1 | quiet)
(cd "$work/iris" && "$ondol" init 2>&1 | quiet)
good "shop (a web service) and iris (a model)"

push() { (cd "$work/$1" && git push ondol main 2>&1 | grep -v '^remote: *$' | quiet); }
outcome() { (cd "$work/$1" && "$ondol" runs --limit 1 --json | field 0.outcome); }
version() { curl -fsS "$gateway/apps/shop/version" | field version; }

title "git push: tests, image, rollout"
push shop
[ "$(outcome shop)" = success ] || fail "the first run did not succeed"
[ "$(version)" = 1 ] || fail "version 1 does not answer at the gateway"
good "version 1 answers at $gateway/apps/shop/"

title "A second version under load, and no request fails"
python3 "$root/scripts/load.py" "$gateway/apps/shop/version" 8 >"$work/load.json" &
load=$!
sleep 0.5
(cd "$work/shop" && sed -i 's/^VERSION = "1"/VERSION = "2"/' app.py && git commit -qam "Version 2")
push shop
[ "$(version)" = 2 ] || fail "version 2 does not answer"
sleep 0.5
kill -TERM "$load" && wait "$load" || true
requests=$(field requests <"$work/load.json") failures=$(field failures <"$work/load.json")
[ "$failures" = 0 ] || fail "$failures of $requests requests failed: $(cat "$work/load.json")"
[ "$requests" -gt 50 ] || fail "there was no load: $requests requests"
good "$requests requests while it was replaced, 0 failed"

title "A version whose tests fail stays out"
(cd "$work/shop" && sed -i 's/Hello, /Hullo, /' app.py && git commit -qam "Break the greeting")
push shop
[ "$(outcome shop)" = failure ] || fail "the run with failing tests was not a failure"
[ "$(version)" = 2 ] || fail "version 2 no longer answers"
good "refused by its tests; version 2 kept serving"

title "A version that never becomes healthy stays out"
(cd "$work/shop" && git revert --no-edit HEAD >/dev/null && sed -i 's/^VERSION = "2"/VERSION = "3"/; s/self.answer(200, {"ok": True})/self.answer(503, {"ok": False})/' app.py && printf 'service:\n  run: python3 app.py\n  health: { path: /healthz, deadline: 3s }\n' >ondol.yaml && git commit -qam "Never healthy")
push shop
[ "$(outcome shop)" = failure ] || fail "the run that never became healthy was not a failure"
[ "$(version)" = 2 ] || fail "version 2 no longer answers"
good "its probe never passed; version 2 kept serving"

title "Push data: validated, trained, evaluated, tested, released, served"
push iris
head -n 1 "$work/iris/data/iris.csv" >"$work/first.csv"
awk 'NR>1 && NR%5!=0' "$work/iris/data/iris.csv" >>"$work/first.csv"
(cd "$work/iris" && "$ondol" data push iris "$work/first.csv" --as iris.csv -m "The first rows" --watch 2>&1 | quiet)
[ "$(outcome iris)" = success ] || fail "the data run did not succeed"
ask() {
    curl -fsS -H 'content-type: application/json' "$gateway/apps/iris/invocations" \
        -d '{"dataframe_split":{"columns":["sepal_length","sepal_width","petal_length","petal_width"],"data":[[5.1,3.5,1.4,0.2],[6.7,3.0,5.2,2.3]]}}'
}
answer=$(ask) || fail "no prediction through the gateway"
printf '   │ prediction: %s\n' "$answer"
case "$answer" in *setosa*virginica*) ;; *) fail "the prediction is wrong: $answer" ;; esac
good "a prediction through the gateway"

champion() { (cd "$work/iris" && "$ondol" models --json | python3 -c 'import json,sys
print(next((m["version"] for m in json.load(sys.stdin) if m["state"]=="champion"), ""))'); }

title "More rows: retrained and promoted by itself"
before=$(champion)
(cd "$work/iris" && "$ondol" data push iris data/iris.csv -m "All rows" --watch 2>&1 | quiet)
[ "$(outcome iris)" = success ] || fail "the retraining did not succeed"
after=$(champion)
[ -n "$after" ] && [ "$after" != "$before" ] || fail "no new champion: $before → $after"
good "model version $before → $after"

title "Shuffled labels: the gate refuses"
python3 - "$work/iris/data/iris.csv" "$work/shuffled.csv" <<'PY'
import csv, random, sys
rows = list(csv.reader(open(sys.argv[1], newline="")))
labels = [row[-1] for row in rows[1:]]
random.Random(7).shuffle(labels)
csv.writer(open(sys.argv[2], "w", newline=""), lineterminator="\n").writerows([rows[0]] + [row[:-1] + [label] for row, label in zip(rows[1:], labels)])
PY
(cd "$work/iris" && "$ondol" data push iris "$work/shuffled.csv" --as iris.csv -m "Shuffled labels" --watch 2>&1 | quiet) || true
[ "$(outcome iris)" = refused ] || fail "the gate let shuffled labels through: $(outcome iris)"
[ "$(champion)" = "$after" ] || fail "the champion changed"
ask >/dev/null || fail "the model no longer answers"
good "refused with its reason; model version $after keeps serving"

title "Rows that break the schema: refused with row and column"
{ cat "$work/iris/data/iris.csv"; echo "5.1,3.5,-1.4,0.2,setosa"; } >"$work/broken.csv"
(cd "$work/iris" && "$ondol" data push iris "$work/broken.csv" --as iris.csv -m "A negative length" --watch 2>&1 | tee "$work/broken.out" | quiet) || true
[ "$(outcome iris)" = refused ] || fail "the broken rows were not refused: $(outcome iris)"
grep -q petal_length "$work/broken.out" && grep -Eq '15[12]' "$work/broken.out" || fail "row and column are not named"
good "named the row and the column"

title "Watch it: status, metrics, logs, events"
"$ondol" status | quiet
curl -fsS -H "authorization: Bearer $ONDOL_TOKEN" "$control/metrics" | grep -E '^ondol_gateway_requests_total' | head -n 3 | quiet
"$ondol" logs --project shop --lines 3 | quiet
"$ondol" events --limit 8 | quiet
lines=$("$ondol" logs --project shop --lines 50 | wc -l)
[ "$lines" -gt 0 ] || fail "there are no logs"
events=$("$ondol" events --limit 500 --json | python3 -c 'import json,sys; print(" ".join(event["type"] for event in json.load(sys.stdin)))')
for kind in push.received pipelinerun.finished artifact.packaged service.deployed service.upgraded modelversion.promoted modelversion.refused dataset.committed; do
    case "$events" in *"$kind"*) ;; *) fail "the event log lacks $kind" ;; esac
done
good "the log has every step from push to service"

title "Roll back by one command"
(cd "$work/shop" && "$ondol" rollback 2>&1 | quiet)
[ "$(version)" = 1 ] || fail "version 1 does not answer after the rollback"
good "version 1 serves again"

printf '\n%sEvery stage happened, in %s.%s\n' "$green" "$(since "$began")" "$plain"
if [ -n "${ONDOL_DEMO_ONCE:-}" ]; then exit 0; fi
cat <<TEXT

${bold}Open${plain}
  $gateway/apps/shop/          the web service
  $gateway/apps/iris/          the model
  $control/api/openapi.json    the API

${bold}Try next${plain}, in another terminal, after
  export ONDOL_URL=$control ONDOL_TOKEN=\$(cat $work/data/admin.token) PATH="$(dirname "$ondol"):\$PATH"
  1. ondol logs --project shop -f            and ask the service something
  2. cd $work/shop, change app.py, git commit -am change, git push ondol main
  3. kill -9 $serve                          the service goes on; start it again with
     ondol serve --data $work/data --listen ${control#http://} --gateway-listen ${gateway#http://}

Ctrl-C stops everything.
TEXT
wait "$serve"
