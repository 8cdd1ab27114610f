#compdef runner
# Completion of runner for zsh. What runner answers is only ever inserted, never executed.
_runner() {
    local -a ended shown open open_shown
    local row value help label program="${(Q)words[1]}"
    local line="${(j: :)words[1,CURRENT-1]} ${IPREFIX}${QIPREFIX}${PREFIX}"
    while IFS=$'\t' read -r value help; do
        label="$value${help:+  -- $help}"
        if [[ $value == *[=/] ]]; then # a value, or a name, comes behind it
            open+=("$value") open_shown+=("$label")
        else
            ended+=("$value") shown+=("$label")
        fi
    done < <(_RUNNER_COMPLETE=zsh _RUNNER_LINE="$line" "${program/#\~/$HOME}" 2>/dev/null </dev/null)
    if (( $#ended + $#open )); then
        (( $#ended )) && compadd -l -d shown -a ended
        (( $#open )) && compadd -l -S '' -d open_shown -a open
    else
        compset -P '*='
        _files
    fi
}
if [[ $funcstack[1] == _runner ]]; then # loaded from $fpath by its first use
    _runner "$@"
else
    compdef _runner runner
fi
