"""Configuration: YAML files and `key=value` words into frozen, validated sections."""
