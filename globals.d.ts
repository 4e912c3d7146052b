/** Connect's declarations use this DOM name, which `@types/node` lacks. */
type HeadersInit = ConstructorParameters<typeof Headers>[0];
