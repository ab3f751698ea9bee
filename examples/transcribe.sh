#!/bin/sh
# Sends an audio file to Verbatim and prints its transcript. Needs curl 7.76 or later, and nothing besides.
#
#   transcribe.sh FILE [text|srt|vtt|json|verbose_json|tsv]
#
# The server and the key come from VERBATIM_SERVER and VERBATIM_API_KEY.
set -eu

server=${VERBATIM_SERVER:-http://127.0.0.1:8080}
format=${2:-text}

give_up() {
    echo "transcribe.sh: $*" >&2
    exit 1
}

[ $# -ge 1 ] || give_up "which file? transcribe.sh FILE [FORMAT]"
if ! [ -f "$1" ] || ! [ -r "$1" ]; then give_up "cannot read $1"; fi

answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

# call CURL-ARGUMENTS...: the answer's body goes to "$answer". curl itself tries again what was refused for now (429, 503), and
# heeds Retry-After; the upload's Idempotency-Key makes that safe. The key goes in by a file, for a command line is public.
call() {
    printf '%s' "${VERBATIM_API_KEY:+header = \"Authorization: Bearer $VERBATIM_API_KEY\"}" |
        curl --config - --silent --fail-with-body --retry 5 --output "$answer" "$@" && return
    case $? in
        22) give_up "the server refuses: $(said detail)" ;;
        *) give_up "cannot reach $server" ;;
    esac
}

# said FIELD: a string in the answer's JSON. Enough for ids, states and sentences; programs use a parser.
said() {
    sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" "$answer" | head -n 1
}

key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
call --header "Idempotency-Key: $key" --form "file=@\"$1\"" "$server/v1/jobs"
job=$(said id)

# The server holds each answer until the job has ended, or for half a minute.
while :; do
    case $(said status) in
        completed) break ;;
        failed | cancelled) give_up "the job $(said status): $(said message)" ;;
    esac
    call "$server/v1/jobs/$job?wait=30"
done
call "$server/v1/jobs/$job/transcript?format=$format"
cat "$answer"
