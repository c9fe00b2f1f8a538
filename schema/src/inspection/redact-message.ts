import { type Detect, inspectMessage, type InspectionResult } from './inspect-message.ts';
import { compilePolicy } from './match-policies.ts';
import { inspectedLengthMax, policyMatchDefaults } from './policy.ts';

/** Takes out what no webhook is to see unless it may see everything. */
const redacting = compilePolicy({
  id: 'redact',
  mode: 'enforce',
  match: policyMatchDefaults,
  rules: (['secret', 'personalData'] as const).map((detector) => ({
    detector,
    action: 'redact',
    severityMin: null,
    categories: [],
  })),
  inspectedLengthMax,
  onTooLarge: 'block',
});

/**
 * A JSON message without the secrets and personal data that the detectors find; null where they cannot be taken out.
 * Answers at once where `detect` does.
 */
export function redactMessage(message: string, detect: Detect): string | null | Promise<string | null> {
  const inspection = { policies: [redacting], direction: 'request' as const, message, headers: [], carried: '' };
  const left = ({ isBlocked, changed }: InspectionResult): string | null => (isBlocked ? null : (changed ?? message));
  const result = inspectMessage({ ...inspection, kind: 'content' }, detect);
  return result instanceof Promise ? result.then(left) : left(result);
}
