#!/bin/sh
# Uploads FILE in the parts that parts.json beside this script has URLs for:
#
#   sh upload.sh FILE [PART...]
#
# With numbers of parts, only those. Needs sh, sed, dd, wc and curl, and room for one part in ${TMPDIR:-/tmp}. Each part is
# tried six times; after a failure run it again, all of it or the parts that it names. The object is there, and the grant
# Completed, when Valet has seen that every part has come, which takes it up to a minute.
set -eu

fail() {
    echo "upload.sh: $*" >&2
    exit 1
}

[ $# -gt 0 ] || fail "usage: sh upload.sh FILE [PART...]"
file=$1
shift
[ -r "$file" ] || fail "$file cannot be read"
parts=$(dirname "$0")/parts.json

# A number in the line of a part, or in the first one of the file. URLs have no quotes in them.
number() { printf '%s\n' "$1" | sed -n "s/.*\"$2\":\([0-9]*\).*/\1/p"; }
# Read anew for every try: a key that is renewed has other URLs for the same parts.
entry() { sed -n "/^{\"number\":$1,/p" "$parts"; }

first=$(sed -n 1p "$parts")
least=$(number "$first" minSize)
most=$(number "$first" maxSize)
size=$(wc -c < "$file")
size=$((size))
[ "$size" -ge "$least" ] && [ "$size" -le "$most" ] ||
    fail "$file has $size bytes; the grant is for $least to $most"

umask 077
piece=$(mktemp "${TMPDIR:-/tmp}/part.XXXXXX")
trap 'rm -f "$piece"' EXIT
trap 'exit 1' HUP INT TERM

send() {
    # Of the last part dd finds less, and of what follows the end of the file nothing.
    dd if="$file" of="$piece" bs=1048576 skip=$(($2 / 1048576)) count=$((($3 + 1048575) / 1048576)) 2> /dev/null ||
        fail "part $1 cannot be copied to $piece; is there room for $3 bytes?"
    pause=1
    while :; do
        url=$(entry "$1" | sed 's/.*"url":"\([^"]*\)".*/\1/')
        # By a file, for others can see arguments. PUT takes the size from the piece, as the signature wants it.
        printf 'url = "%s"\n' "$url" |
            curl --config - --upload-file "$piece" --fail --silent --show-error --globoff --output /dev/null && return
        [ "$pause" -le 16 ] || fail "part $1 did not get through; its URL works until $(cat "$(dirname "$0")/expiry")"
        echo "upload.sh: part $1 failed; again in $pause s" >&2
        sleep "$pause"
        pause=$((pause * 2))
    done
}

if [ $# -eq 0 ]; then
    part=1
    while found=$(entry "$part") && [ -n "$found" ]; do
        # A file that ends with a full part is ended by an empty one, where its size was not fixed beforehand.
        offset=$(number "$found" offset)
        [ "$offset" -le "$size" ] || break
        set -- "$@" "$part"
        part=$((part + 1))
    done
fi
for part in "$@"; do
    found=$(entry "$part")
    [ -n "$found" ] || fail "there is no part $part"
    send "$part" "$(number "$found" offset)" "$(number "$found" size)"
    echo "upload.sh: part $part is in the store" >&2
done
