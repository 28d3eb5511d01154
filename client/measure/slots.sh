#!/usr/bin/env bash
# Makes the README's table of what slots remember: every operator at one to four slots, and
# progressive in 1/12, 1/24 and 1/48 of the adapters' bytes; three random orders and the adversarial
# one. `client/measure/slots.sh ADAPTERS MODEL TASKS [OUT]` takes what `kmerge replay` takes, writes
# the results and their pages to OUT (default: measured), and the table to stdout.
#
# Needs jq, and kmerge and kmerged (release builds; $KMERGE names another kmerge). What is scored
# once is kept in the cache of `kmerge replay`, so a run that was stopped goes on.
set -euo pipefail

if (($# < 3 || $# > 4)); then
  echo "usage: $0 ADAPTERS MODEL TASKS [OUT]" >&2
  exit 2
fi
adapters=$1 model=$2 tasks=$3 out=${4:-measured}
kmerge=${KMERGE:-$(dirname "${BASH_SOURCE[0]}")/../../target/release/kmerge}
mkdir -p "$out"

bytes=$(cat "$adapters"/*/adapter_model.safetensors | wc -c)
sizes=$(jq -rn --argjson bytes "$bytes" '[12, 24, 48] | map($bytes / . | floor) | join(",")')

replay() {
  local name=$1
  shift
  echo "replaying $name" >&2
  "$kmerge" --json replay "$adapters" --model "$model" --tasks "$tasks" \
    --orders 3 --adversarial --examples 40 --html "$out/$name.html" "$@" >"$out/$name.json"
}
files=("$out/progressive.json")
replay progressive --operator progressive --slot-bytes "$sizes"
operators=(kmerge-linear exact svd linear ties dare-linear dare-ties opcm)
for operator in "${operators[@]}"; do
  replay "$operator" --operator "$operator" --k 1,2,3,4
  files+=("$out/$operator.json")
done

jq -rs '
  def commas: tostring | explode | reverse | [_nwise(3)] | map(reverse | implode) | reverse
    | join(",");
  # As many digits after the point as asked for, and no zero before it.
  def figure($digits):
    pow(10; $digits) as $unit | (. * $unit | round) as $number
    | (($number / $unit) | floor) as $whole
    | ($number - $whole * $unit + $unit | tostring | .[1:]) as $rest
    | (if $whole == 0 then "" else $whole | tostring end) + "." + $rest;
  def spread($digits):
    (.mean | figure($digits)) as $mean | (.least | figure($digits)) as $least
    | (.most | figure($digits)) as $most
    | if $least == $most then $mean else "\($mean) (\($least) to \($most))" end;
  def gcd($a; $b): if $b == 0 then $a else gcd($b; $a % $b) end;
  # 3/8 where it is a whole number of adapters for all tasks, else 1/49.
  def share($tasks):
    (. * $tasks) as $adapters | ($adapters | round) as $whole
    | if $whole > 0 and ($adapters - $whole | fabs) < 0.01
      then gcd($whole; $tasks) as $common | "\($whole / $common)/\($tasks / $common)"
      else "1/\(1 / . | round)" end;
  "| operator | stored, in adapters | per task | S loss | S exact match |",
  "|---|---|---|---|---|",
  (.[] | (.runs[0].tasks | length) as $tasks | .rows[]
    | "| `\(.operator)`, "
      + (if .slot_bytes then "\(.slot_bytes | commas) bytes" else "K = \(.slots)" end)
      + " | \(.bytes_per_task * $tasks * 100 | round / 100) | \(.bytes_per_task | share($tasks))"
      + " | \(.kept.loss | spread(3)) | \(.kept.exact_match | spread(2)) |")
' "${files[@]}"
