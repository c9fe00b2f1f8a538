import { homedir } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';

const Environment = z.object({
  DATABASE_URL: z.url({ protocol: /^postgres(ql)?$/ }).optional(),
  REDIS_URL: z.url({ protocol: /^rediss?$/ }).optional(),
});

/** What the command takes from its environment; options on the command line win. */
export interface CliEnvironment {
  /** An own PostgreSQL instead of the embedded one. */
  readonly databaseUrl: string | undefined;
  /** A Redis for the queues; without one they lie in PostgreSQL. */
  readonly redisUrl: string | undefined;
  /** Handed on to our own programs: proxies, certificates, the log level; no other setting of ours. */
  readonly inherited: Readonly<Record<string, string | undefined>>;
}

/**
 * @param overrides variables that options of the command line stand for.
 * @throws Error that names every variable that is not valid.
 */
export function readCliEnvironment(
  overrides: Readonly<Record<string, string | undefined>> = {},
  env: Readonly<Record<string, string | undefined>> = process.env,
): CliEnvironment {
  // An empty variable is how shells and compose files say "not set".
  const set = Object.fromEntries(
    Object.entries({ ...env, ...overrides }).filter(([, value]) => value !== undefined && value !== ''),
  );
  const inherited = Object.fromEntries(
    Object.entries(set).filter(([name]) => !name.startsWith('SALLYPORT_') || name === 'SALLYPORT_LOG_LEVEL'),
  );
  const parsed = Environment.safeParse(set);
  if (!parsed.success) {
    const problems = parsed.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`);
    throw new Error(`The environment is not valid. ${problems.join('; ')}`);
  }
  return { databaseUrl: parsed.data.DATABASE_URL, redisUrl: parsed.data.REDIS_URL, inherited };
}

const ControlPlaneEnvironment = z.object({
  DATABASE_URL: z.url({ protocol: /^postgres(ql)?$/ }),
  SALLYPORT_SECRET_KEY: z.string().min(1),
});

/** The database of a control plane and what opens it; undefined unless both are set. */
export function readControlPlaneEnvironment(
  env: Readonly<Record<string, string | undefined>> = process.env,
): { readonly databaseUrl: string; readonly secretKey: string } | undefined {
  const parsed = ControlPlaneEnvironment.safeParse(env);
  if (!parsed.success) return undefined;
  return { databaseUrl: parsed.data.DATABASE_URL, secretKey: parsed.data.SALLYPORT_SECRET_KEY };
}

/** The API key that a client presents; undefined where none is set. */
export function readApiKey(env: Readonly<Record<string, string | undefined>> = process.env): string | undefined {
  const key = env['SALLYPORT_API_KEY']?.trim();
  return key === '' ? undefined : key;
}

/** Where what belongs to the person at this machine is kept; made when something is. */
export function readConfigDirectory(env: Readonly<Record<string, string | undefined>> = process.env): string {
  const given = env['SALLYPORT_CONFIG_DIRECTORY'];
  if (given !== undefined && given !== '') return given;
  const base = env['XDG_CONFIG_HOME'] ?? env['APPDATA'];
  return join(base === undefined || base === '' ? join(homedir(), '.config') : base, 'sallyport');
}
