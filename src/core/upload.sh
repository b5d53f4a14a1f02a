#!/bin/sh
# Uploads the parts of FILE to the URLs from parts.json in the same folder:
#
#   sh upload.sh FILE [PART...]
#
# With part numbers, uploads only those parts. Needs sh, sed, dd, wc and curl, and free space for one part in
# ${TMPDIR:-/tmp}. Each part is tried six times. After a failure, run the script again for the whole file, or only for
# the part that it names. The object exists, and the grant is Completed, when Valet has completed the multipart
# upload. This takes up to a minute.
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

# Prints a number from the line of a part, or from the first line of the file. URLs contain no quotes.
number() { printf '%s\n' "$1" | sed -n "s/.*\"$2\":\([0-9]*\).*/\1/p"; }
# Reads the file again for every try, because a renewed grant has new URLs for the same parts.
entry() { sed -n "/^{\"number\":$1,/p" "$parts"; }

first=$(sed -n 1p "$parts")
least=$(number "$first" minSize)
most=$(number "$first" maxSize)
size=$(wc -c < "$file")
size=$((size))
[ "$size" -ge "$least" ] && [ "$size" -le "$most" ] ||
    fail "$file has $size bytes; the grant allows $least to $most bytes"

umask 077
piece=$(mktemp "${TMPDIR:-/tmp}/part.XXXXXX")
trap 'rm -f "$piece"' EXIT
trap 'exit 1' HUP INT TERM

send() {
    # For the last part dd finds fewer bytes, and after the end of the file none.
    dd if="$file" of="$piece" bs=1048576 skip=$(($2 / 1048576)) count=$((($3 + 1048575) / 1048576)) 2> /dev/null ||
        fail "part $1 cannot be copied to $piece; is there free space for $3 bytes?"
    pause=1
    while :; do
        url=$(entry "$1" | sed 's/.*"url":"\([^"]*\)".*/\1/')
        # Passes the URL on standard input, because other users can see arguments. curl sends the size of the piece,
        # as the signature requires.
        printf 'url = "%s"\n' "$url" |
            curl --config - --upload-file "$piece" --fail --silent --show-error --globoff --output /dev/null && return
        [ "$pause" -le 16 ] || fail "part $1 could not be uploaded; its URL works until $(cat "$(dirname "$0")/expiry")"
        echo "upload.sh: part $1 failed; next try in $pause s" >&2
        sleep "$pause"
        pause=$((pause * 2))
    done
}

if [ $# -eq 0 ]; then
    part=1
    while found=$(entry "$part") && [ -n "$found" ]; do
        # If the size was not fixed and the file ends with a full part, an empty part ends the upload.
        offset=$(number "$found" offset)
        [ "$offset" -le "$size" ] || break
        set -- "$@" "$part"
        part=$((part + 1))
    done
fi
for part in "$@"; do
    found=$(entry "$part")
    [ -n "$found" ] || fail "parts.json has no part $part"
    send "$part" "$(number "$found" offset)" "$(number "$found" size)"
    echo "upload.sh: part $part is in the store" >&2
done
