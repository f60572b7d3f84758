#!/bin/sh
# Finds the engine that this container runs, or builds it for the GPU that is there, once; then starts the command.
#
#   $TOOLCHAIN_ENGINE (/engine)   an engine folder, mounted or copied in: taken as it is
#   $TOOLCHAIN_MODEL (/model)     an ONNX folder of 'toolchain export' or 'optimize': built at the first boot
#
# What is built stays in $TOOLCHAIN_STORE, under a key that holds the GPU and the libraries: the next boot finds it, and
# another GPU gets an engine of its own. $TOOLCHAIN_CURRENT/engine is what the health check and the command open; it is
# this container's own, because others may share the store.
set -eu

current=$TOOLCHAIN_CURRENT/engine
writable() {
    if ! { mkdir -p "$TOOLCHAIN_CURRENT" && [ -w "$TOOLCHAIN_CURRENT" ]; } 2>/dev/null; then
        echo "uid $(id -u) cannot write $TOOLCHAIN_CURRENT: mount a folder there, such as --tmpfs $TOOLCHAIN_CURRENT:mode=1777" >&2
        exit 1
    fi
}
if [ -f "$TOOLCHAIN_ENGINE/engine.json" ]; then
    # The image has this link already, so that nothing is written where the root is read-only.
    if [ "$(readlink "$current")" != "$TOOLCHAIN_ENGINE" ]; then
        writable
        ln -sfnT "$TOOLCHAIN_ENGINE" "$current"
    fi
elif [ -f "$TOOLCHAIN_MODEL/model.onnx" ]; then
    writable
    rm -f "$current"
    toolchain build "$TOOLCHAIN_MODEL" --engine "$TOOLCHAIN_BUILD" --task "$TOOLCHAIN_TASK" --json >"$TOOLCHAIN_CURRENT/built.json"
    built=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))[0]["path"])' "$TOOLCHAIN_CURRENT/built.json")
    ln -sfnT "$built" "$current"
else
    echo "there is no engine: mount an engine folder at $TOOLCHAIN_ENGINE, or an ONNX folder at $TOOLCHAIN_MODEL" >&2
    exit 1
fi
exec "$@"
