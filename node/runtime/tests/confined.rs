//! Loops where the kernel gives less: threads that are confined before they start one.

#![expect(unsafe_code, reason = "seccomp filters have no safe wrapper here")]

use std::thread;

use fathom_runtime::process::{become_io_flusher, set_oom_score};
use fathom_runtime::{Cause, Configuration, Context, Event, Loops, Message, SizeClass, Step};
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CapabilitySet, capabilities, set_capabilities},
};

#[derive(Debug)]
struct Never;

impl Message for Never {
    fn undeliverable(self) -> Option<Self> {
        None
    }
}

/// Has the kernel answer `errno` to `io_uring_setup` of this thread and those that it starts.
fn forbid_io_uring(errno: i32) {
    let setup = u32::try_from(libc::SYS_io_uring_setup).expect("a small number");
    let errno = u32::try_from(errno).expect("a small number");
    let code = |parts: u32| u16::try_from(parts).expect("a code has 16 bits");
    let load = code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
    let jump = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
    let answer = code(libc::BPF_RET | libc::BPF_K);
    let mut program = [
        libc::sock_filter { code: load, jt: 0, jf: 0, k: 0 },
        libc::sock_filter { code: jump, jt: 0, jf: 1, k: setup },
        libc::sock_filter { code: answer, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | errno },
        libc::sock_filter { code: answer, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ];
    install(&mut program);
}

#[test]
fn a_filter_is_named_as_the_cause() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let confined = thread::spawn(move || {
            forbid_io_uring(errno);
            let refused = Loops::<Never>::start(&Configuration::default()).map(drop);
            let error = refused.expect_err("it is forbidden");
            assert_eq!((error.number, error.step, &error.cause), (0, Step::Ring, &Cause::Filter));
            assert!(error.to_string().contains("seccomp"), "{error}");
        });
        confined.join().expect("the cause is named");
    }
}

/// Has the kernel answer `errno` to one kind of `io_uring_register` of this thread and those that it
/// starts.
fn forbid_registering(what: u32, errno: i32) {
    let register = u32::try_from(libc::SYS_io_uring_register).expect("a small number");
    let errno = u32::try_from(errno).expect("a small number");
    let code = |parts: u32| u16::try_from(parts).expect("a code has 16 bits");
    let load = code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
    let jump = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
    let answer = code(libc::BPF_RET | libc::BPF_K);
    // `struct seccomp_data`: the second argument begins at byte 24.
    let mut program = [
        libc::sock_filter { code: load, jt: 0, jf: 0, k: 0 },
        libc::sock_filter { code: jump, jt: 0, jf: 3, k: register },
        libc::sock_filter { code: load, jt: 0, jf: 0, k: 24 },
        libc::sock_filter { code: jump, jt: 0, jf: 1, k: what },
        libc::sock_filter { code: answer, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | errno },
        libc::sock_filter { code: answer, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ];
    install(&mut program);
}

fn install(program: &mut [libc::sock_filter]) {
    let len = u16::try_from(program.len()).expect("it is short");
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: it takes no pointers.
    let allowed = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(allowed, 0);
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the program lives until the call returns, and the kernel copies it.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
    assert_eq!(set, 0);
}

#[test]
fn refused_chunks_for_sockets_are_named_with_the_cause() {
    const PROVIDED: u32 = 22;
    let causes = [(libc::EPERM, "seccomp"), (libc::ENOMEM, "memory")];
    for (errno, named) in causes {
        let confined = thread::spawn(move || {
            forbid_registering(PROVIDED, errno);
            let refused = Loops::<Never>::start(&Configuration::default()).map(drop);
            let error = refused.expect_err("it is forbidden");
            assert_eq!((error.number, error.step), (0, Step::Receive));
            assert!(error.to_string().contains("what sockets receive"), "{error}");
            assert!(error.to_string().contains(named), "{error}");
            let receive = SizeClass { chunk_bytes: 4096, chunks: 0 };
            let without = Configuration { receive, ..Configuration::default() };
            Loops::<Never>::start(&without).map(drop).expect("without sockets it starts");
        });
        confined.join().expect("the cause is named");
    }
}

#[test]
fn without_a_file_table_a_loop_starts() {
    const FILES: u32 = 13;
    let confined = thread::spawn(|| {
        forbid_registering(FILES, libc::EMFILE);
        Loops::<Never>::start(&Configuration::default()).map(drop).expect("it starts without");
    });
    confined.join().expect("it starts");
}

/// Does nothing but stop.
struct Idle;

impl fathom_runtime::Actor<Never> for Idle {
    fn handle(&mut self, event: Event<Never>, context: &mut Context<'_, Never>) {
        if matches!(event, Event::Stop) {
            context.retire();
        }
    }
}

#[test]
fn little_locked_memory_leaves_buffers_unregistered_and_the_loop_running() {
    const LIMIT: u64 = 8 << 20;
    let maximum = getrlimit(Resource::Memlock).maximum;
    setrlimit(Resource::Memlock, Rlimit { current: Some(LIMIT), maximum })
        .expect("a limit can be lowered");
    let confined = thread::spawn(|| {
        // Who has this may lock as much as he likes.
        let mut sets = capabilities(None).expect("they can be asked");
        sets.effective.remove(CapabilitySet::IPC_LOCK);
        sets.permitted.remove(CapabilitySet::IPC_LOCK);
        set_capabilities(None, sets).expect("they can be given up");
        let small = SizeClass { chunk_bytes: 4096, chunks: 16 };
        let large = SizeClass { chunk_bytes: 1 << 20, chunks: 16 };
        for (buffers, registered) in [(vec![small, large], 1), (vec![large], 0), (vec![small], 1)] {
            let configuration = Configuration { buffers, ..Configuration::default() };
            let loops = Loops::<Never>::start(&configuration).expect("they start without");
            let remote = loops.remote(0);
            remote.give_birth(Box::new(|_| Box::new(Idle))).expect("the loop runs");
            assert_eq!(remote.statistics().buffers_registered(), registered);
            loops.stop();
        }
    });
    confined.join().expect("the loops run");
}

#[test]
fn without_privilege_the_process_is_told_what_it_lacks() {
    let confined = thread::spawn(|| {
        let mut sets = capabilities(None).expect("they can be asked");
        sets.effective.remove(CapabilitySet::SYS_RESOURCE);
        sets.permitted.remove(CapabilitySet::SYS_RESOURCE);
        set_capabilities(None, sets).expect("they can be given up");
        let refused = become_io_flusher().expect_err("it is not privileged");
        assert_eq!(refused.source.raw_os_error(), Some(libc::EPERM));
        assert!(refused.to_string().contains("CAP_SYS_RESOURCE"), "{refused}");
        let score = std::fs::read_to_string("/proc/self/oom_score_adj").expect("it can be read");
        let score = score.trim().parse().expect("it is a number");
        set_oom_score(score).expect("what it is may be set");
    });
    confined.join().expect("it is told");
}
