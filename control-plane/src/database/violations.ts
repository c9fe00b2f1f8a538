import { AppError, type Violation } from '@sallyport/schema';

/** 43 characters of base64url hold 32 bytes. */
const broughtSecret = /^[A-Za-z0-9_-]{43,96}$/;
/** Of 43 random ones, fewer are different once in 10^9 secrets at most. */
const secretDistinctMin = 16;

/** Collects everything wrong with one input, so that the caller mends it in one go. */
export class Violations {
  readonly list: Violation[] = [];

  add(path: string, message: string): void {
    this.list.push({ path, message });
  }

  addAll(violations: readonly Violation[]): void {
    this.list.push(...violations);
  }

  /** @param value absent (undefined or null) is not checked */
  text(path: string, value: string | null | undefined, lengthMin: number, lengthMax: number): void {
    if (value === undefined || value === null) return;
    const length = value.trim().length;
    if (length < lengthMin)
      this.add(path, lengthMin === 1 ? 'must not be empty' : `must have at least ${lengthMin} characters`);
    else if (value.length > lengthMax) this.add(path, `must have at most ${lengthMax} characters`);
    // PostgreSQL cannot store NUL in text.
    else if (value.includes('\u0000')) this.add(path, 'must not contain the NUL character');
    else if (!value.isWellFormed()) this.add(path, 'must be well-formed Unicode');
  }

  /** A whole number from `least` to `most`. */
  between(path: string, value: number, least: number, most: number): void {
    if (!Number.isInteger(value) || value < least || value > most) this.add(path, `must be ${least} to ${most}`);
  }

  /**
   * A secret that the caller brings along: the prefix and as many random characters as one made here has. That they are
   * random cannot be told; that they are plainly not, such as one letter over and over, can.
   */
  secret(path: string, value: string | null | undefined, prefix: string): void {
    if (value === undefined || value === null) return;
    const random = value.startsWith(prefix) ? value.slice(prefix.length) : '';
    if (!broughtSecret.test(random) || new Set(random).size < secretDistinctMin) {
      this.add(path, `must be ${prefix} and 43 to 96 random letters, digits, - or _`);
    }
  }

  /** An instant after now and not later than `now + lifetimeMsMax`. */
  expiry(path: string, expiresAt: Date | null | undefined, nowMs: number, lifetimeMsMax: number): void {
    if (expiresAt === undefined || expiresAt === null) return;
    if (expiresAt.getTime() <= nowMs) this.add(path, 'must be in the future');
    else if (expiresAt.getTime() > nowMs + lifetimeMsMax) {
      this.add(path, `must be at most ${Math.floor(lifetimeMsMax / 86_400_000)} days away`);
    }
  }

  /** Throws INVALID_INPUT with all that was collected, if anything was. */
  assertNone(): void {
    if (this.list.length > 0) throw new AppError('INVALID_INPUT', { violations: this.list });
  }
}

export const nameLengthMax = 128;
export const descriptionLengthMax = 2000;
