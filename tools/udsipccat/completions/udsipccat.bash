# Completion of udsipccat for bash: options, the words that they take, and files.

_udsipccat() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} words=
    # The shell takes --option=value apart.
    if [[ $current == = ]]; then
        current=
    elif [[ $previous == = ]]; then
        previous=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    case $previous in
    -f | --format) words='lines null raw frames hex json none' ;;
    -a | --acknowledge) words='auto always never' ;;
    -n | --count | -t | --timeout | --speed | --size | --max-size) return ;;
    --record | --replay) ;;
    *)
        if [[ $current == -* ]]; then
            words='-w --write -r --read --tap --record= --replay= --stat --bench -f --format= -n --count= -t --timeout=
                -W --wait -a --acknowledge= --drop --speed= --sync --size= --max-size= -q --quiet -h --help -V --version'
        fi
        ;;
    esac
    if [[ -n $words ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$current"))
        [[ ${COMPREPLY[0]-} == *= ]] && compopt -o nospace
    else
        local IFS=$'\n'
        compopt -o filenames
        COMPREPLY=($(compgen -f -- "$current"))
    fi
}

complete -F _udsipccat udsipccat
