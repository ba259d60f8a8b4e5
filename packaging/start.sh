#!/bin/sh
# Make the station at the first start, then serve it. Others can reach a container: it needs an administrator first, whose
# name and password are taken from BLEMISH_ADMIN and the file BLEMISH_ADMIN_PASSWORD_FILE.
set -eu
dir=/station/line
if [ ! -f "$dir/station.toml" ]; then
    blemish station init "$dir" --root /pictures
fi
if [ -n "${BLEMISH_ADMIN:-}" ] && ! blemish station user list "$dir" | grep -q '"role": "admin"'; then
    blemish station user add "$dir" "$BLEMISH_ADMIN" --role admin < "$BLEMISH_ADMIN_PASSWORD_FILE"
fi
exec blemish station serve "$dir" "$@"
