//: group = "B"
//: summary = "sigaltstack: where handlers run, nesting on it, SS_AUTODISARM, errors"
//: link = ["static"]
#include "check.h"

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif

static char *stack, *other;
static volatile bool on_it, on_other, onstack_flag;
static volatile int set_inside, depth;
enum { SIZE = 64 << 10 };

static void look(int number) {
    char here;
    on_it = &here > stack && &here < stack + SIZE;
    on_other = &here > other && &here < other + SIZE;
    stack_t now;
    sigaltstack(NULL, &now);
    onstack_flag = now.ss_flags & SS_ONSTACK;
    stack_t change = { .ss_sp = other, .ss_size = SIZE };
    set_inside = sigaltstack(&change, NULL) == -1 ? errno : 0;
}

static void nested(int number) {
    char here;
    if (&here < stack || &here > stack + SIZE) _exit(40);
    if (depth++ < 3) raise(number);
}

int main(void) {
    stack = map_anonymous(SIZE), other = map_anonymous(SIZE);
    stack_t now;
    MUST(sigaltstack(NULL, &now));
    FACT("at first", "%s", now.ss_flags == SS_DISABLE ? "disabled" : "enabled");
    stack_t set = { .ss_sp = stack, .ss_size = SIZE };
    TRY("set", sigaltstack(&set, NULL));
    handle(SIGUSR1, look, SA_ONSTACK);
    raise(SIGUSR1);
    FACT("on it, SS_ONSTACK, changing it inside", "%d %d %s", on_it, onstack_flag, errno_name(set_inside));
    handle(SIGUSR1, look, 0);
    raise(SIGUSR1);
    FACT("without SA_ONSTACK", "%d %d %s", on_it, onstack_flag, set_inside ? errno_name(set_inside) : "ok");
    MUST(sigaltstack(NULL, &now));
    FACT("the return restores the stack of before", "%d %zu", now.ss_sp == stack, now.ss_size);
    set.ss_sp = other;
    TRY("set the other", sigaltstack(&set, NULL));
    set.ss_sp = stack;
    handle(SIGUSR1, look, SA_ONSTACK);
    raise(SIGUSR1);
    FACT("on the other", "%d", on_other);
    MUST(sigaltstack(&set, NULL));
    handle(SIGUSR2, nested, SA_ONSTACK | SA_NODEFER);
    raise(SIGUSR2);
    FACT("nested on it", "%d", depth);
    CHILD("child keeps it") {
        MUST(sigaltstack(NULL, &now));
        _exit(now.ss_sp == stack && now.ss_flags == 0 ? 0 : 1);
    }
    set.ss_flags = (int)SS_AUTODISARM;
    TRY("SS_AUTODISARM", sigaltstack(&set, NULL));
    raise(SIGUSR1);
    FACT("in the handler it is free", "%d %s", on_it, set_inside ? errno_name(set_inside) : "ok");
    MUST(sigaltstack(NULL, &now));
    FACT("restored after it", "%d", now.ss_sp == stack);
    set.ss_flags = 0;
    set.ss_size = 1000;
    TRY("too small", sigaltstack(&set, NULL));
    set.ss_size = SIZE;
    set.ss_flags = 77;
    TRY("bad flags", sigaltstack(&set, NULL));
    set.ss_flags = SS_DISABLE;
    TRY("disable", sigaltstack(&set, NULL));
    TRY("bad address", sigaltstack(OPAQUE((stack_t *)8), NULL));
    return done();
}
