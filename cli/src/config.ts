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
  /** Handed on to our own programs, so that their other settings can be tried with `start` too. */
  readonly inherited: Readonly<Record<string, string | undefined>>;
}

/** @throws Error that names every variable that is not valid. */
export function readCliEnvironment(env: Readonly<Record<string, string | undefined>> = process.env): CliEnvironment {
  // An empty variable is how shells and compose files say "not set".
  const set = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== ''));
  const parsed = Environment.safeParse(set);
  if (!parsed.success) {
    const problems = parsed.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`);
    throw new Error(`The environment is not valid. ${problems.join('; ')}`);
  }
  return { databaseUrl: parsed.data.DATABASE_URL, redisUrl: parsed.data.REDIS_URL, inherited: set };
}
