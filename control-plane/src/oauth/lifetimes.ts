const hourMs = 3_600_000;
const dayMs = 24 * hourMs;

/** A browser session ends when it was not used for an hour, and twelve hours after the login whatever happens. */
export const sessionIdleMs = hourMs;
export const sessionAbsoluteMs = 12 * hourMs;
/** A refresh token ends when it was not used for two weeks; its family thirty days after the login whatever happens. */
export const refreshIdleMs = 14 * dayMs;
export const familyAbsoluteMs = 30 * dayMs;
export const codeLifetimeMs = 60_000;
export const interactionLifetimeMs = 10 * 60_000;
/** How long a metadata document of a client may be kept. */
export const metadataDocumentKeptMs = dayMs;
